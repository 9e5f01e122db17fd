"""What differs between two deployables, as paths that a person recognises from the manifest. Pure; shows no values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pcloud.model.deployable import Deployable
from pcloud.model.problems import join

_NAMED = {"assemblies": "name", "resources": "name", "parameters": "name", "constraints": "id", "after": "assembly"}
"""Tuples whose elements are found again by an attribute, not by their place."""


def changes(old: Deployable | None, new: Deployable) -> tuple[str, ...]:
    """Return the paths of what was added, removed or changed, in the order of the document, such as
    `assemblies.web.resources.httpd.parameters.port changed`; nothing when the two are equal."""
    if old is None:
        return tuple(f"assemblies.{assembly.name} added" for assembly in new.assemblies)
    return tuple(_struct(old, new, ""))


def _struct(old: msgspec.Struct, new: msgspec.Struct, path: str) -> Iterator[str]:
    for name in new.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        place = join(path, name)
        key = _NAMED.get(name)
        if key is not None and all(hasattr(part, key) for part in (*before, *after)):
            yield from _named(before, after, key, place)
        elif name == "files":
            yield from _mapping(dict(before), dict(after), place)
        else:
            yield f"{place} changed"


def _named(old: Iterable[Any], new: Iterable[Any], key: str, path: str) -> Iterator[str]:
    before = {getattr(part, key): part for part in old}
    after = {getattr(part, key): part for part in new}
    for name, part in after.items():
        if name not in before:
            yield f"{join(path, name)} added"
        elif before[name] != part:
            if path.endswith(("assemblies", "resources")):
                yield from _struct(before[name], part, join(path, name))
            else:
                yield f"{join(path, name)} changed"
    yield from (f"{join(path, name)} removed" for name in before if name not in after)
    if list(before) != list(after) and set(before) == set(after):
        yield f"{path} reordered"


def _mapping(old: dict[str, str], new: dict[str, str], path: str) -> Iterator[str]:
    for name in dict.fromkeys((*new, *old)):
        if old.get(name) != new.get(name):
            word = "added" if name not in old else "removed" if name not in new else "changed"
            yield f"{join(path, name)} {word}"
