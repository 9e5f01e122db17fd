"""The images that guests were made from are kept in mind, so that an upgrade does not make all of them anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("deployables", sa.Column("images", sa.Text))


def downgrade() -> None:
    """Not offered: restore a backup instead."""
    raise NotImplementedError
