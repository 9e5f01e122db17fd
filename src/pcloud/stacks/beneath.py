"""What a nested stack is made from, and whether that is other than before. Pure.

A nested source carries every file that was sent, of which most may be others' matter. The files that count are those whose
name stands in the template, in a file that counts, in the parameters or in the registry: more than are needed now and then,
never fewer, since a name that a function makes up lets all of them count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from pcloud.stacks.functions.evaluation import Unknown, unknown_in
from pcloud.stacks.records import Source

_MADE_UP = re.compile(r"""\b(?:get_file|TemplateURL)\b["']?\s*:\s*(?:[{!\n]|$)""")
"""Where a function gives the name of a file."""


class Foreseen(msgspec.Struct, frozen=True, kw_only=True):
    """A nested source as far as it is known before anything is made."""

    source: Source
    """With the parameters that are known."""
    unknown: frozenset[str] | None = frozenset()
    """Parameters that are given values which are not known yet; None when even their names are not."""
    label: str
    """What the nested template is called: its file, or the property that holds it."""

    def within(self, source: Source) -> Foreseen:
        """Return it with what it has from the source around it: the environment's defaults."""
        return msgspec.structs.replace(self, source=msgspec.structs.replace(self.source, defaults=source.defaults))


def parted(given: Any) -> tuple[dict[str, Any], frozenset[str] | None]:
    """Return the parameters that are known, and the names of those that are given and not known."""
    if isinstance(given, Unknown):
        return {}, None
    known = {name: value for name, value in (given or {}).items() if unknown_in(value) is None}
    return known, frozenset(given or {}) - known.keys()


def without_unknown(value: Any, names: list[str]) -> Any:
    """Return a value of a HOT template with a parameter in the place of everything that is not known; adds their names."""
    if isinstance(value, Unknown):
        names.append(f"unknown{len(names)}")
        return {"get_param": names[-1]}
    if isinstance(value, list):
        return [without_unknown(item, names) for item in value]
    if isinstance(value, dict):
        return {key: without_unknown(item, names) for key, item in value.items()}
    return value


def files_of(source: Source) -> Mapping[str, str]:
    """Return the files that may count for what a source makes."""
    pending = [source.template, json.dumps(source.parameters), json.dumps(source.registry)]
    found: dict[str, str] = {}
    while pending:
        text = pending.pop()
        if _MADE_UP.search(text):
            return source.files
        for name, content in source.files.items():
            if name not in found and name in text:
                found[name] = content
                pending.append(content)
    return found


def alike(left: Source, right: Source) -> bool:
    """Whether two sources say the same beside the parameters: template, registry, defaults and the files that count."""
    if left.template != right.template or left.registry != right.registry or left.defaults != right.defaults:
        return False
    return left.files == right.files or files_of(left) == files_of(right)
