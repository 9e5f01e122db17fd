"""What runs is kept beside what shall run, for as long as the images of a change are not there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("deployables", sa.Column("applied", sa.Text))


def downgrade() -> None:
    """Not offered: restore a backup instead."""
    raise NotImplementedError
