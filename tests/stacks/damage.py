"""Damages what a store of stacks keeps."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec


def spoil(folder: Path, table: str, key: str, **changes: Any) -> None:
    """Write values of a wrong form into one record; without changes it is no record at all any more."""
    with sqlite3.connect(folder / "stacks.db") as store:
        column = "key" if table == "thing" else "id"
        (body,) = store.execute(f"SELECT body FROM {table} WHERE {column} = ?", (key,)).fetchone()
        spoilt = msgspec.msgpack.encode({**msgspec.msgpack.decode(body), **changes}) if changes else b"\xc1"
        store.execute(f"UPDATE {table} SET body = ? WHERE {column} = ?", (spoilt, key))
    store.close()


def rows(folder: Path, table: str) -> int:
    """How many records a store has."""
    with sqlite3.connect(folder / "stacks.db") as store:
        (count,) = store.execute(f"SELECT count(*) FROM {table}").fetchone()
    store.close()
    return int(count)
