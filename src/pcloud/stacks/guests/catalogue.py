"""What names in templates mean here: images, instance types, packages and services of other distributions. Pure.

The tables in `catalogue.yaml` are the documented mapping; `[stacks]` of the settings adds to images and instance types.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pcloud.cpe.settings import StackSettings, StackSize

TOOLS = frozenset({"cloud-init", "heat-cfntools"})
"""Packages without which a server of a stack gets neither its user data nor its metadata."""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that stands for what a package of another distribution brings."""

    path: str
    content: str
    mode: int = 0o644


class Package(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a package name of another distribution means on Debian."""

    packages: tuple[str, ...] = ()
    files: tuple[_File, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()


class Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The documented mapping."""

    images: dict[str, str]
    sizes: dict[str, StackSize]
    packages: dict[str, Package]
    services: dict[str, str]
    """Service name of another distribution → systemd unit."""


@functools.cache
def tables() -> Tables:
    """Return the mapping that comes with the program."""
    content: Any = yaml.safe_load((Path(__file__).parent / "catalogue.yaml").read_text())
    return msgspec.convert(content, Tables)


class Catalogue:
    """The mapping of one daemon."""

    def __init__(self, settings: StackSettings, jeos: Mapping[str, frozenset[str]]) -> None:
        """`jeos` gives the packages of each JEOS by its name."""
        self._jeos = jeos
        self._images = {**tables().images, **settings.images}
        self._sizes = {**tables().sizes, **settings.sizes}

    def image(self, name: str) -> str | None:
        """Return the image of servers that a name means; None when it means nothing, or nothing that has the tools."""
        meant = self.meaning(name)
        if meant is None or meant not in self._jeos:
            return meant  # images made by others: what they hold is not known here
        return next((one for one in (meant, f"{meant}-cfntools") if self._jeos.get(one, frozenset()) >= TOOLS), None)

    def meaning(self, name: str) -> str | None:
        """Return the image that a name means: itself, an entry, or the longest pattern that fits; None otherwise."""
        if name in self._jeos:
            return name
        if name in self._images:
            return self._images[name]
        fitting = [pattern for pattern in self._images if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
        return self._images[max(fitting, key=len)] if fitting else None

    def size(self, name: str) -> StackSize | None:
        """Return what an instance type gives; None when it is not known."""
        return self._sizes.get(name)

    def sizes(self) -> list[str]:
        """Return the known instance types."""
        return sorted(self._sizes)


def unit_of(service: str) -> str:
    """Return the systemd unit that a service's name means on Debian, without `.service`."""
    name = service.removesuffix(".service")
    return tables().services.get(name, name)
