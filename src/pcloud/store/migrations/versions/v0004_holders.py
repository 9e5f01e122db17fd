"""Of each deployable it is known which daemon gave it to its engines: where guests that are bound to a host are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("deployables", sa.Column("holder", sa.String(64)))
    op.add_column("deployables", sa.Column("host", sa.String(255)))


def downgrade() -> None:
    """Not offered: restore a backup instead."""
    raise NotImplementedError
