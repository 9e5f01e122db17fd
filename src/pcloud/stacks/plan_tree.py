"""Draws a plan as a tree of lines for people. Pure.

A resource stands under the last of those that it waits for, and the resources of a nested stack under their stack, named
with it. Where a resource waits for more than the one it stands under, the line says for which.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Sequence

from pcloud.stacks.plan import Change, Plan

_SIGNS = {
    "create": "+",
    "update": "~",
    "metadata": "~",
    "replace": "±",
    "delete": "-",
    "retain": "·",
    "none": " ",
}
_DEEPEST = 16
"""Levels from which on lines are not indented further: chains may be as long as a template."""


def tree(plan: Plan) -> str:
    """Return the plan with one line a resource, then its notes."""
    return "\n".join([*_lines(plan.changes, "", 0), *(f"note: {note}" for note in plan.notes)])


def _lines(changes: Sequence[Change], within: str, depth: int) -> Iterator[str]:
    over = _over(changes)
    beneath: dict[str, list[Change]] = {}
    for change in changes:
        beneath.setdefault(over.get(change.name, ""), []).append(change)
    pending = [(change, depth) for change in reversed(beneath.get("", ()))]
    while pending:
        change, level = pending.pop()
        yield _line(change, within, level, over.get(change.name, ""))
        yield from _lines(change.beneath, f"{within}{change.name}/", level + 1)
        pending += [(other, level + 1) for other in reversed(beneath.get(change.name, ()))]


def _over(changes: Sequence[Change]) -> dict[str, str]:
    """Return under which other one each change stands: the one that is deepest of those it waits for."""
    named = {change.name: [other for other in change.waits_for if other != change.name] for change in changes}
    depths: dict[str, int] = {}
    over: dict[str, str] = {}
    for name in graphlib.TopologicalSorter(named).static_order():
        first = [other for other in named.get(name, ()) if other in named]
        depths[name] = 1 + max((depths[other] for other in first), default=-1)
        if first:
            over[name] = max(first, key=lambda other: depths[other])
    return over


def _line(change: Change, within: str, level: int, over: str) -> str:
    why = f"  ({change.why})" if change.why else ""
    what = f": {', '.join(change.changed)}" if change.changed else ""
    doubt = "  [if the value turns out to differ]" if change.conditional and change.action != "create" else ""
    others = [other for other in change.waits_for if other != over]
    after = f"  [after {', '.join(others)} too]" if over and others else ""
    indent = "  " * min(level, _DEEPEST)
    head = f"{indent}{_SIGNS[change.action]} {change.action:<8} {within}{change.name}  {change.type}"
    return f"{head}{what}{why}{doubt}{after}"
