"""JEOS definitions: which just-enough operating systems there are, as data (`jeos/*.yaml`, then /etc/pcloud/jeos/*.yaml).

Pure but for reading those files, which are small and read once.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pcloud.model.errors import InvalidDocument, NotFound

LOCAL = Path("/etc/pcloud/jeos")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Our (the kernel's) names of architectures, and Debian's."""
RECIPE = 3
"""Raised when the builder makes something else from the same definition."""
EXCLUDED = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*")
INCLUDED = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")


class JeosDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one JEOS is made."""

    name: str
    title: str
    distribution: str
    """`debian` or `ubuntu`: as in /etc/os-release's ID."""
    suite: str
    extra_suites: tuple[str, ...] = ()
    """Updates and security suites; used where a mirror serves them."""
    components: tuple[str, ...] = ("main",)
    keyrings: tuple[str, ...] = ()
    mirror: str = ""
    """Used when the host's apt sources name no mirror of the distribution."""
    architectures: tuple[str, ...] = ("x86_64",)
    packages: tuple[str, ...]
    mask: tuple[str, ...] = ()
    """systemd units that a guest has no use for."""

    def digest(self, arch: str) -> str:
        """Return the digest that changes when and only when the image's description does."""
        return hashlib.sha256(msgspec.json.encode([RECIPE, arch, EXCLUDED, self])).hexdigest()[:16]


@functools.cache
def definitions() -> dict[str, JeosDefinition]:
    """Return all definitions by name. InvalidDocument when a file is not one."""
    found: dict[str, JeosDefinition] = {}
    for folder in (Path(__file__).parent / "jeos", LOCAL):
        for file in sorted(folder.glob("*.yaml")):
            try:
                content: Any = yaml.safe_load(file.read_text())
                definition = msgspec.convert(content, JeosDefinition)
            except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
                raise InvalidDocument.of("INVALID_JEOS", f"{file}: {error}") from error
            found[definition.name] = definition
    return found


def definition(name: str, arch: str) -> JeosDefinition:
    """Return one definition. NotFound when there is none of that name or architecture."""
    known = definitions().get(name)
    if known is None:
        raise NotFound.of(
            "UNKNOWN_JEOS", f"there is no JEOS {name!r}", hint=f"one of: {', '.join(sorted(definitions()))}"
        )
    if arch not in known.architectures or arch not in ARCHITECTURES:
        raise NotFound.of(
            "UNKNOWN_ARCH", f"JEOS {name} is not made for {arch!r}", hint=f"one of: {', '.join(known.architectures)}"
        )
    return known
