"""The tables. Owns their shape; `migrations/` owns how an older file gets there (a test holds the two together).

Structs are kept as msgspec JSON in text columns, so that they can be read with any database tool; columns beside them
exist only where the database itself must search or where a listing must not decode whole definitions.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

_name = String(255)

deployables = Table(
    "deployables",
    metadata,
    Column("name", _name, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("applied", Text),  # the definition that runs, where it is another one
    Column("images", Text),  # JSON: assembly → what its image shall be, and the digest of what its guest is of
    Column("library", Text, nullable=False),  # JSON list: assemblies that are copies by reference of library assemblies
    Column("infrastructure", _name, nullable=False),
    Column("assemblies", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("target", String(16), nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("phase", String(16), nullable=False),  # active | deleting
    Column("slot", _name, nullable=False),
    Column("loaded", Boolean, nullable=False),  # whether an engine was ever given it: only then guests can exist
    Column("revision", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("holder", String(64)),  # id of the daemon that gave it to an engine last, and that daemon's host
    Column("host", String(255)),
)

library = Table(
    "library",
    metadata,
    Column("name", _name, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("created", Float, nullable=False),
)

engine_state = Table(
    "engine_state",
    metadata,
    Column("deployable", _name, primary_key=True),
    Column("state", LargeBinary, nullable=False),
    Column("updated", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("time", Float, nullable=False),
    Column("type", _name, nullable=False),
    Column("deployable", _name, nullable=False),
    Column("assembly", _name, nullable=False),
    Column("resource", _name, nullable=False),
    Column("state", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("data", Text, nullable=False),
    Index("events_deployable", "deployable", "sequence"),
    Index("events_type", "type", "sequence"),
    Index("events_time", "time"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("deployable", _name, nullable=False),
    Column("time", Float, nullable=False),
    Column("record", Text, nullable=False),
    Index("decisions_deployable", "deployable", "id"),
)

cursors = Table(
    "cursors",  # how far the records of each engine process, and the deliveries of each sink, have come
    metadata,
    Column("name", _name, primary_key=True),
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("updated", Float, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", _name, primary_key=True),
    Column("value", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", _name, primary_key=True),
    Column("role", String(16), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created", Float, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("subject", _name, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("progress", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("errors", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Index("jobs_state", "state"),
)
