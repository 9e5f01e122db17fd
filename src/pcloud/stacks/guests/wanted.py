"""Whether a source may make guests or take addresses, before it is read in full: types that do are named in it. Pure."""

from __future__ import annotations

import functools

from pcloud.environment.infrastructure import Capability
from pcloud.stacks.records import Source
from pcloud.stacks.types.registry import types


@functools.cache
def _names(need: str) -> tuple[str, ...]:
    return tuple(sorted(name for name, kind in types().items() if need in kind.needs))


def may_make_guests(source: Source) -> bool:
    """Tell whether a template, or a template among its files, names a type that needs guests."""
    return _named(source, "guests")


def may_take_addresses(source: Source) -> bool:
    """Tell whether one of them names a type that needs addresses."""
    return _named(source, Capability.ADDRESSES)


def _named(source: Source, need: str) -> bool:
    return any(name in text for text in (source.template, *source.files.values()) for name in _names(need))
