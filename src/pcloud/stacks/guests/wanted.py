"""Whether a source may make guests, before it is read in full: a type that needs them is named in it. Pure."""

from __future__ import annotations

import functools

from pcloud.stacks.records import Source
from pcloud.stacks.types.registry import types


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(name for name, kind in types().items() if "guests" in kind.needs))


def may_make_guests(source: Source) -> bool:
    """Tell whether a template, or a template among its files, names a type that needs guests."""
    return any(name in text for text in (source.template, *source.files.values()) for name in _names())
