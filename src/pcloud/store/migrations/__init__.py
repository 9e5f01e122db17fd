"""Alembic's scripts; run by `pcloud.store.database` at start, never by hand."""
