"""The manifest's JSON Schema and reference tables, made from the one description that the reader uses. Pure."""

from __future__ import annotations

from typing import Any

from pcloud.model.description import DEPLOYABLE, TABLES
from pcloud.model.shapes import Table


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the manifest. It says what one key may be; what must hold between keys
    (names that are referred to exist, no cycles) only the reader knows."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pacemaker-cloud manifest",
        "description": "An application made of guests: assemblies, their resources, and the order between them.",
        **DEPLOYABLE.schema(),
    }


def reference_tables() -> str:
    """Return the tables of the manifest's reference page, in Markdown."""
    return "\n".join(_table(table) for table in TABLES)


def _table(table: Table) -> str:
    lines = [
        f"### {table.name[0].upper()}{table.name[1:]}",
        "",
        "| key | value | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, key in table.keys.items():
        default = "required" if key.required else key.default
        cells = (f"`{name}`", key.kind.title, default, key.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join([*lines, ""])
