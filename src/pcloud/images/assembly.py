"""Assembly images: what one is made of, and the plan that `customise` carries out on an overlay over the JEOS.

Pure but for reading the agent's files, whose content is part of the digest.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from pcloud.images.definitions import definition
from pcloud.images.payload import UNIT, PayloadFile, payload_digest, payload_for
from pcloud.model.errors import InvalidDocument

RECIPE = 2
"""Raised when the builder makes something else from the same spec."""
PACKAGE = re.compile(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?"
)  # apt takes `name-` as "remove name"
UNIT_NAME = re.compile(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]*")
AGENT_PACKAGES = {
    "pcloud": (),
    "pacemaker": ("pacemaker-remote", "pacemaker-resource-agents", "resource-agents"),
    "": (),
}
"""What a kind of agent needs beyond the JEOS; the empty kind is a guest without an agent (transports `ssh` and `none`)."""


class ImageFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to be written into the image."""

    path: str
    content: str
    mode: int = 0o644
    owner: str = "root:root"
    """`USER:GROUP`, names as the image knows them (packages are installed first)."""


class AssemblyImageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides an assembly image's content. Equal specs give one image, shared by all clones."""

    jeos: str
    arch: str = "x86_64"
    packages: tuple[str, ...] = ()
    files: tuple[ImageFile, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    agent: str = "pcloud"
    """`pcloud`, `pacemaker`, or empty for none."""
    disable_units: tuple[str, ...] = ()
    """systemd units of managed resources: not started at boot, or two masters would fight over them."""
    transport: str = "remote"

    @property
    def wish(self) -> str:
        """Digest of what is asked for alone: it stays the same when a newer version of us would build it otherwise."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]

    @property
    def digest(self) -> str:
        """Digest of the content's description: the spec, the JEOS below, and the agent that goes in."""
        payload = payload_digest(payload_for(self.agent))
        below = definition(self.jeos, self.arch).digest(self.arch)
        return hashlib.sha256(msgspec.json.encode([RECIPE, self, payload, below])).hexdigest()[:32]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `customise` does, in this order."""

    lower: str
    layer: str
    work: str
    mount: str
    archives: str
    lists: str
    apt_settings: tuple[str, ...]
    packages: tuple[str, ...]
    payload: tuple[PayloadFile, ...]
    files: tuple[ImageFile, ...]
    commands: tuple[tuple[str, ...], ...]
    enable: tuple[str, ...]
    disable: tuple[str, ...]


def check(spec: AssemblyImageSpec) -> None:
    """Refuse a spec that could do something else than it says. InvalidDocument with the first problem."""
    if spec.agent not in AGENT_PACKAGES:
        raise InvalidDocument.of("UNKNOWN_AGENT", f"there is no agent {spec.agent!r}", path="agent")
    for package in spec.packages:
        if not PACKAGE.fullmatch(package):
            raise InvalidDocument.of("INVALID_PACKAGE", f"{package!r} is not the name of a package", path="packages")
    for unit in spec.disable_units:
        if not UNIT_NAME.fullmatch(unit):
            raise InvalidDocument.of("INVALID_UNIT", f"{unit!r} is not the name of a unit", path="disable_units")
    for file in spec.files:
        parts = file.path.split("/")
        if not file.path.startswith("/") or ".." in parts or "\0" in file.path or file.path.endswith("/"):
            raise InvalidDocument.of("INVALID_PATH", f"{file.path!r} is not an absolute path of a file", path="files")
        if not re.fullmatch(r"[a-z0-9_][a-z0-9_-]*:[a-z0-9_][a-z0-9_-]*", file.owner):
            raise InvalidDocument.of("INVALID_OWNER", f"{file.owner!r} is not USER:GROUP", path=f"files.{file.path}")
    for command in spec.commands:
        if not command or any("\0" in word for word in command):
            raise InvalidDocument.of("INVALID_COMMAND", "a command is empty or holds a NUL character", path="commands")


def plan(
    spec: AssemblyImageSpec, *, lower: str, folder: str, archives: str, lists: str, apt_settings: list[str]
) -> Plan:
    """Return what has to be done for a spec. `folder` is the image's future folder under its temporary name."""
    payload = tuple(payload_for(spec.agent))
    services = {"pcloud": (UNIT,), "pacemaker": ("pacemaker_remote.service",), "": ()}[spec.agent]
    return Plan(
        lower=lower,
        layer=f"{folder}/layer",
        work=f"{folder}/work",
        mount=f"{folder}/mount",
        archives=archives,
        lists=lists,
        apt_settings=tuple(apt_settings),
        packages=tuple(dict.fromkeys((*spec.packages, *AGENT_PACKAGES[spec.agent]))),
        payload=payload,
        files=spec.files,
        commands=spec.commands,
        enable=services,
        disable=spec.disable_units,
    )
