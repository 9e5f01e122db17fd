"""The manifest's JSON Schema and reference tables, made from the one description that the reader uses. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pcloud.model.description import DEPLOYABLE, TABLES
from pcloud.model.shapes import Table
from pcloud.model.templates import default_catalogue


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the manifest. It says what one key may be; what must hold between keys
    (names that are referred to exist, no cycles) and the limits of times with units only the reader knows."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pacemaker-cloud manifest",
        "description": "An application made of guests: assemblies, their resources, and the order between them.",
        **DEPLOYABLE.definition(),
        "$defs": {table.identifier: table.definition() for table in TABLES if table is not DEPLOYABLE},
    }


def reference_tables() -> str:
    """Return the tables of the manifest's reference page, in Markdown."""
    return "\n".join(_table(table) for table in TABLES)


def template_tables() -> str:
    """Return the tables of resource templates and of images of the reference page, in Markdown."""
    catalogue = default_catalogue()
    distributions = {each.name: each for each in catalogue.distributions.values()}
    lines = ["| template | also | what | agent | packages |", "|---|---|---|---|---|"]
    for name, template in sorted({each.name: each for each in catalogue.templates.values()}.items()):
        agents: dict[str, list[str]] = {}
        packages: dict[str, None] = {}
        for distribution in distributions:
            resolved = catalogue.resolve(name, distribution)
            agent = ":".join(part for part in (resolved.resource_class, resolved.provider, resolved.type) if part)
            agents.setdefault(agent, []).append(distribution)
            packages |= dict.fromkeys(resolved.packages)
        shown = (f"`{a}`" + (f" ({', '.join(where)})" if len(agents) > 1 else "") for a, where in agents.items())
        lines.append(
            _row(f"`{name}`", _code(template.aliases), template.description, ", ".join(shown), _code(packages))
        )
    lines += ["", "| image | also | what |", "|---|---|---|"]
    lines += [_row(f"`{name}`", _code(each.aliases), each.description) for name, each in distributions.items()]
    return "\n".join([*lines, ""])


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _table(table: Table) -> str:
    lines = [
        f"### {table.name[0].upper()}{table.name[1:]}",
        "",
        "| key | value | default | example | meaning |",
        "|---|---|---|---|---|",
    ]
    for name, key in table.keys.items():
        default = "required" if key.required else key.default
        lines.append(_row(f"`{name}`", key.kind.title, default, f"`{key.example}`", key.meaning))
    return "\n".join([*lines, ""])
