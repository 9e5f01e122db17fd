"""What becomes of each file of a folder of real templates: planned, refused with a reason, or no template.

`tools/corpus-table` writes the table in docs/stacks-corpus.md with it, and a test holds the table against it.
"""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import yaml

from pcloud.api.heat.views import source_from
from pcloud.cpe.settings import StackSettings
from pcloud.model.errors import InvalidDocument, PcloudError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.guests.platform import EnginePlatform
from pcloud.stacks.parameters import violation
from pcloud.stacks.reading import read_template
from pcloud.stacks.store import SqliteStore
from pcloud.stacks.template import ParameterSchema, Template

PAGE = Path(__file__).resolve().parents[2] / "docs/stacks-corpus.md"
BEGIN, END = "<!-- table: written by tools/corpus-table -->", "<!-- end of the table -->"
_SUFFIXES = (".yaml", ".yml", ".template", ".json")
_VALUES = {
    "image": "bookworm",
    "flavor": "m1.small",
    "instance_type": "m1.small",
    "username": "somebody",
    "size": "1",
    "count": "2",
    "index": "0",
    "lengths": "8,16",
    "port": "8080",
    "cidr": "10.0.0.0/24",
    "net_gateway": "10.0.0.1",
    "pool_start": "10.0.0.10",
    "pool_end": "10.0.0.20",
}
"""Values by a part of a parameter's name, where the template gives none."""

_TEXTS = ("Abcdef12", "Abcdef-12", "somebody@example.org", "abcdef12", "10.0.0.0/24")
"""Values of all others: the first that the constraints allow."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one file."""

    name: str
    result: str
    """`planned`, `refused` or `no template`."""
    reasons: tuple[str, ...] = ()
    resources: int = 0


def corpus() -> Path | None:
    """Return the folder of templates; None when this machine has none."""
    given = os.environ.get("PCLOUD_CORPORA", "")
    folder = Path(given) / "heat-templates"
    return folder if given and folder.is_dir() else None


def value_for(schema: ParameterSchema) -> Any:
    """Return a value that a parameter without a default takes."""
    for constraint in schema.constraints:
        if constraint.kind == "allowed_values":
            return constraint.values[0]
    if schema.type in ("number", "numbers"):
        low = [item.minimum for item in schema.constraints if item.kind == "range" and item.minimum is not None]
        return int(low[0]) if low else 1
    if schema.type == "boolean":
        return True
    if schema.type == "json":
        return {}
    name = schema.name.lower()
    for part, value in _VALUES.items():
        if part in name:
            return value
    return next(
        (text for text in _TEXTS if not any(violation(each, schema, text) for each in schema.constraints)), _TEXTS[0]
    )


def outcomes(folder: Path, settings: StackSettings | None = None) -> Iterator[Outcome]:
    """Read and plan every template of a folder, as a client would send it, with `[stacks]` as it comes or as given."""
    engine: Any = SimpleNamespace(
        home=SimpleNamespace(path=Path("/nonexistent")),
        settings=SimpleNamespace(infrastructures={"lxc": {"subnet": "10.88.0.0/16"}}),
    )
    manager = StackManager(SqliteStore(":memory:"), EnginePlatform(engine, settings or StackSettings()))
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES):
        yield _outcome(manager, folder, path)
    manager.store._queue.put(None)  # type: ignore[attr-defined]


def _outcome(manager: StackManager, folder: Path, path: Path) -> Outcome:
    name = str(path.relative_to(folder))
    try:
        template = read_template(path.read_text())
    except InvalidDocument as problem:
        if {item.code for item in problem.problems} == {"NOT_A_TEMPLATE"}:
            return Outcome(name=name, result="no template", reasons=("an environment or another file of its folder",))
        return Outcome(name=name, result="refused", reasons=_reasons(problem))
    given = {name: value_for(schema) for name, schema in template.parameters.items() if schema.required}
    body = {
        "template": path.read_text(),
        "parameters": given,
        "environment": _environment(path),
        "files": _files(template, path),
    }
    try:
        plan = manager.plan(None, source_from(body, None), "corpus")
    except PcloudError as problem:
        return Outcome(name=name, result="refused", reasons=_reasons(problem), resources=len(template.resources))
    return Outcome(name=name, result="planned", resources=len(plan.changes))


def _reasons(problem: PcloudError) -> tuple[str, ...]:
    """Return the sentences, each once; types that are refused for one reason stand together."""
    grouped: dict[str, list[str]] = {}
    for item in problem.problems:
        subject, middle, why = item.message.partition(" is refused: ")
        names = grouped.setdefault(why if middle else item.message, [])
        if middle and subject not in names:
            names.append(subject)
    return tuple(f"{', '.join(names)}: {sentence}" if names else sentence for sentence, names in grouped.items())


def _environment(path: Path) -> dict[str, Any]:
    """Return the environment that lies beside a template."""
    beside = path.with_name(f"{path.stem}_env{path.suffix}")
    return dict(yaml.safe_load(beside.read_text())) if beside.exists() else {}


def _files(template: Template, path: Path) -> dict[str, str]:
    """Return what a client would send beside: other templates from the folder; scripts are not in the corpus, so a line
    stands for each."""
    found: dict[str, str] = {}
    pending = [(path.read_text(), path)]
    while pending:
        text, where = pending.pop()
        names = re.findall(r"""get_file:?["']?\s*:?\s*["']?([\w./-]+)""", text)
        names += re.findall(r"""(?:type|template|TemplateURL)["']?\s*:\s*["']?([\w./:-]+\.(?:yaml|template))""", text)
        for name in (name.rpartition("/")[2] if "://" in name else name for name in names):
            other = where.parent / name
            if name not in found:
                found[name] = other.read_text() if other.is_file() else "# a file that is not in the corpus\n"
                if other.is_file() and other.suffix in _SUFFIXES:
                    pending.append((found[name], other))
                elif other.suffix in _SUFFIXES:
                    del found[name]
    return found


def table(found: list[Outcome]) -> str:
    """Return the table of the documentation."""
    counts = collections.Counter(item.result for item in found)
    lines = [
        BEGIN,
        "",
        ", ".join(f"{counts[result]} {result}" for result in ("planned", "refused", "no template")) + ".",
        "",
        "| file | resources | what becomes of it | reason |",
        "|---|---|---|---|",
    ]
    for item in found:
        reasons = "; ".join(item.reasons).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{item.name}` | {item.resources or ''} | {item.result} | {reasons} |")
    return "\n".join([*lines, "", END])


def page_with(text: str, found: list[Outcome]) -> str:
    """Return the page with its table written anew."""
    before, rest = text.split(BEGIN)
    return before + table(found) + rest.split(END)[1]
