"""Our verdict and cfn-lint's over cfn-lint's own fixtures."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from pcloud.cpe.settings import StackSettings
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.guests.platform import EnginePlatform
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.store import SqliteStore

TOOLS = Path(__file__).resolve().parents[2] / ".tools/cfn-lint"
VERDICTS = TOOLS / "verdicts.json"
"""What cfn-lint says, written by tools/setup-tests."""
DIFFERENCES = Path(__file__).with_name("cfn_lint_differences.yaml")

_ANY_TYPE = {f"{vendor}*": "OS::Heat::None" for vendor in ("AWS::", "Custom::", "Alexa::", "Initech::", "ThirdParty::")}
"""The language is compared, not the types: those that are ours differ from AWS's on purpose."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What both say of one file: nothing is acceptance."""

    name: str
    ours: frozenset[str]
    """Codes of our problems."""
    theirs: frozenset[str]
    """Numbers of cfn-lint's rules of level error."""
    messages: tuple[str, ...] = ()


def fixtures() -> Path | None:
    """Return the folder of cfn-lint's templates; None when it is not there."""
    found = list(TOOLS.glob("src/cfn_lint-*/test/fixtures/templates"))
    return found[0] if found and VERDICTS.exists() else None


def verdicts(folder: Path) -> list[Verdict]:
    """Judge every template with ours, and read what cfn-lint said of it."""
    theirs: dict[str, set[str]] = collections.defaultdict(set)
    for item in json.loads(VERDICTS.read_text()):
        if item["Level"] == "Error":
            theirs[item["Filename"].partition("/templates/")[2]].add(item["Rule"]["Id"])
    engine: Any = SimpleNamespace(
        home=SimpleNamespace(path=Path("/nonexistent")), settings=SimpleNamespace(infrastructures={})
    )
    manager = StackManager(SqliteStore(":memory:"), EnginePlatform(engine, StackSettings()))
    stack = StackRecord(id="0", name="lint", status="REVIEW_IN_PROGRESS")
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml", ".json", ".template")):
        name = str(path.relative_to(folder))
        if name.startswith("override_spec/"):
            continue  # cfn-lint's own settings
        problems = []
        try:
            source = Source(template=path.read_bytes().decode("utf-8", "replace"), registry=_ANY_TYPE)
            manager.validate(stack, source, complete=False)
        except InvalidDocument as problem:
            problems = list(problem.problems)
        found.append(
            Verdict(
                name=name,
                ours=frozenset(item.code for item in problems),
                theirs=frozenset(theirs[name]),
                messages=tuple(f"{item.code} {item.path}: {item.message}" for item in problems),
            )
        )
    manager.store._queue.put(None)  # type: ignore[attr-defined]
    return found
