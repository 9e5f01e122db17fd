"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_name = sa.String(255)
_big = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "deployables",
        sa.Column("name", _name, primary_key=True),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("library", sa.Text, nullable=False),
        sa.Column("infrastructure", _name, nullable=False),
        sa.Column("assemblies", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("target", sa.String(16), nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("slot", _name, nullable=False),
        sa.Column("loaded", sa.Boolean, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
    )
    op.create_table(
        "library",
        sa.Column("name", _name, primary_key=True),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_table(
        "engine_state",
        sa.Column("deployable", _name, primary_key=True),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("sequence", _big, primary_key=True, autoincrement=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("type", _name, nullable=False),
        sa.Column("deployable", _name, nullable=False),
        sa.Column("assembly", _name, nullable=False),
        sa.Column("resource", _name, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("events_deployable", "events", ["deployable", "sequence"])
    op.create_index("events_type", "events", ["type", "sequence"])
    op.create_index("events_time", "events", ["time"])
    op.create_table(
        "decisions",
        sa.Column("id", _big, primary_key=True, autoincrement=True),
        sa.Column("deployable", _name, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_index("decisions_deployable", "decisions", ["deployable", "id"])
    op.create_table(
        "cursors",
        sa.Column("name", _name, primary_key=True),
        sa.Column("sequence", _big, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
    )
    counters = op.create_table(
        "counters",
        sa.Column("name", _name, primary_key=True),
        sa.Column("value", _big, nullable=False),
    )
    op.bulk_insert(counters, [{"name": "events", "value": 0}])
    op.create_table(
        "tokens",
        sa.Column("name", _name, primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("subject", _name, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("errors", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
    )
    op.create_index("jobs_state", "jobs", ["state"])


def downgrade() -> None:
    """Not offered: restore a backup instead."""
    raise NotImplementedError
