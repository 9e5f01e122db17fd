"""The words of a scenario: faults and changes as a person types them, read into values. Pure.

kill web/httpd · kill guest db · hang web/httpd · hang guest web · cut off web · heal web · fail start web/httpd 3 ·
fail stop web/httpd · infrastructure down 60s · kill engine · pause · resume · stop · start · wait 30s · apply FILE
"""

from __future__ import annotations

import re

import msgspec

from pcloud.model.deployable import Deployable
from pcloud.model.errors import InvalidDocument, Problem

MAX_FAULTS = 50
LONGEST = 3600.0
"""Seconds that a fault may last or a scenario may wait."""
KNOWN = (
    "kill A/R, kill guest A, hang A/R, hang guest A, cut off A, heal A, fail start A/R [N], fail stop A/R, "
    "infrastructure down TIME, kill engine, pause, resume, stop, start, wait TIME, apply FILE"
)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault or change."""

    text: str
    """As it was typed."""
    kind: str
    assembly: str = ""
    resource: str = ""
    number: float = 0.0
    """Seconds, or how many times."""
    file: str = ""


_NAME = r"[a-z0-9][a-z0-9_.-]*"
_SERVICE = rf"(?P<assembly>{_NAME})/(?P<resource>{_NAME})"
_GUEST = rf"(?P<assembly>{_NAME})"
_FORMS = tuple(
    (kind, re.compile(form + r"\Z", re.IGNORECASE))
    for kind, form in (
        ("kill engine", r"kill engine"),
        ("kill guest", rf"kill guest {_GUEST}"),
        ("kill", rf"kill {_SERVICE}"),
        ("hang guest", rf"hang guest {_GUEST}"),
        ("hang", rf"hang {_SERVICE}"),
        ("cut off", rf"cut off (?:guest )?{_GUEST}"),
        ("heal", rf"heal (?:guest )?{_GUEST}"),
        ("fail start", rf"fail start {_SERVICE}(?: (?P<number>[1-9][0-9]?))?"),
        ("fail stop", rf"fail stop {_SERVICE}"),
        ("infrastructure down", r"infrastructure down (?P<number>[0-9]{1,4})s?"),
        ("wait", r"wait (?P<number>[0-9]{1,4})s?"),
        ("pause", r"pause"),
        ("resume", r"resume"),
        ("stop", r"stop"),
        ("start", r"start"),
        ("apply", r"apply (?P<file>.{1,1024})"),
    )
)


def read(scenario: list[str], deployable: Deployable, changes: dict[str, Deployable]) -> tuple[Fault, ...]:
    """Return the faults of a scenario; InvalidDocument with every problem in it. `changes` holds what the files of `apply`
    say; names are looked for in the deployable and in those."""
    known = [a for each in (deployable, *changes.values()) for a in each.assemblies]
    problems: list[Problem] = []
    faults: list[Fault] = []
    if len(scenario) > MAX_FAULTS:
        problems.append(_problem("TOO_MANY_FAULTS", f"a scenario has at most {MAX_FAULTS} faults", "faults"))
    for i, text in enumerate(scenario[:MAX_FAULTS]):
        path, words = f"faults[{i}]", " ".join(text.split())
        found = next(((kind, m) for kind, form in _FORMS if (m := form.match(words))), None)
        if found is None:
            problems.append(_problem("UNKNOWN_FAULT", f"`{words[:100]}` is no fault", path, hint=f"known are: {KNOWN}"))
            continue
        kind, match = found
        given = match.groupdict(default="")
        fault = Fault(
            text=words, kind=kind, assembly=given.get("assembly", ""), resource=given.get("resource", ""),
            number=float(given.get("number") or 1), file=given.get("file", ""),
        )  # fmt: skip
        if fault.number > LONGEST:
            problems.append(_problem("TOO_LONG", f"at most {LONGEST:g} s can be looked ahead", path))
        if fault.kind == "apply" and fault.file not in changes:
            problems.append(_problem("NO_SUCH_FILE", f"the document {fault.file} was not given", path))
        same = [a for a in known if a.name == fault.assembly]
        if fault.assembly and not same:
            problems.append(_problem("UNKNOWN_ASSEMBLY", f"there is no assembly `{fault.assembly}`", path))
        elif fault.resource and not any(r.name == fault.resource for a in same for r in a.resources):
            problems.append(
                _problem("UNKNOWN_RESOURCE", f"there is no resource `{fault.resource}` in {fault.assembly}", path)
            )
        faults.append(fault)
    if problems:
        raise InvalidDocument.from_problems(problems)
    return tuple(faults)


def _problem(code: str, message: str, path: str, *, hint: str = "") -> Problem:
    return Problem(code=code, message=message, path=path, hint=hint)
