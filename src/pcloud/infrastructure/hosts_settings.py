"""Which hosts there are, how each is reached and how it is fenced: `[infrastructures.hosts]` of the configuration.

Secrets stand in files that only their owner reads; the settings hold the files' names. Reading them blocks no longer than
a few small files take. Concurrency: immutable values.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from pcloud.environment.infrastructure import Identity
from pcloud.model.errors import InvalidDocument, Problem, Unavailable
from pcloud.model.names import HOST_NAME, matches

_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}|::[A-Fa-f0-9:]*")
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_AGENT = re.compile(r"(/[A-Za-z0-9._/-]+/)?fence_[A-Za-z0-9_.-]+")
_SECRET_BYTES = 64 * 1024


class FenceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[infrastructures.hosts.host.NAME.fence]`: the device that switches a host. Every time in seconds."""

    agent: str
    """A fence agent: a program `fence_…`, in PATH or /usr/sbin, or with its whole path."""
    parameters: dict[str, str] = {}
    """What `fence_… -o metadata` lists, such as `ip`; secrets are better in `secrets`."""
    secrets: dict[str, str] = {}
    """Parameter → file, mode 0600, whose first line is its value."""
    isolation: Literal["off", "reboot"] = "off"
    """The action that isolates; `reboot` for devices that can not leave a host off."""
    timeout: float = 60.0
    """For one action of the agent, and again until `status` confirms it."""
    status_timeout: float = 20.0
    """For one `status`."""


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[infrastructures.hosts.host.NAME]`: one host that is there already."""

    address: str
    """Name or IP address."""
    ssh_port: int = 22
    agent_port: int = 3121
    key_file: str = ""
    """ssh private key that opens root's account, mode 0600: for `transport: ssh`, and for commands."""
    host_key: str = ""
    """The host's public ssh key, one line as in `ssh_host_ed25519_key.pub`: no other is talked to."""
    agent_key_file: str = ""
    """The Pacemaker Remote key (/etc/pacemaker/authkey there), mode 0600: for `transport: remote`."""
    power: Literal["kept", "managed"] = "kept"
    """`kept`: a stop ends the services and leaves the host on; `managed`: it shuts the host down, too."""
    silence: float = 10.0
    """Seconds that its sshd may let a new connection wait before the host, whose transport is silent and whose fence device
    says that it is on, counts as hung."""
    fence: FenceSettings | None = None
    unfenced: bool = False
    """Nothing can switch this host: one that can not be reached is never declared dead."""


class HostsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[infrastructures.hosts]`."""

    state: str
    poll: float = 10.0
    """Seconds between two looks at each fence device."""
    parallel: int = 8
    """Fence devices asked at once."""
    host: dict[str, HostSettings] = {}


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What opens a host."""

    identity: Identity
    private_key: str = ""
    host_key: str = ""


def hosts_settings(table: Mapping[str, Any], state: str = "") -> HostsSettings:
    """Return the settings; ValueError names what is wrong, msgspec.ValidationError is one."""
    settings = msgspec.convert({"state": state, **table}, HostsSettings)
    for name, host in settings.host.items():
        for wrong in _wrong(name, host):
            raise ValueError(f"host.{name}: {wrong}")
    if not (settings.poll > 0 and settings.parallel > 0):
        raise ValueError("poll and parallel must be above 0")
    return settings


def configured(table: Mapping[str, Any]) -> HostsSettings:
    """As `hosts_settings`, for those who answer a user: InvalidDocument."""
    try:
        return hosts_settings(table)
    except ValueError as error:
        raise InvalidDocument.of("INVALID_SETTING", str(error), path="infrastructures.hosts") from error


def _wrong(name: str, host: HostSettings) -> list[str]:
    found = []
    if not matches(HOST_NAME, name):
        found.append("a host's name is letters, digits, '.', '_' and '-', 63 at most")
    if not _ADDRESS.fullmatch(host.address):
        found.append("address is no name and no IP address")
    if not (0 < host.ssh_port < 65536 and 0 < host.agent_port < 65536):
        found.append("a port is between 1 and 65535")
    if "\n" in host.host_key or (host.host_key and len(host.host_key.split()) < 2):
        found.append("host_key is one line: the type, a space, the key")
    if host.key_file and not host.host_key:
        found.append("key_file needs host_key: the host's own key is pinned")
    if host.silence <= 0:
        found.append("silence must be above 0")
    if host.fence is None:
        if host.power == "managed":
            found.append('power = "managed" needs a fence device: nothing else could switch the host on again')
        return found
    if host.unfenced:
        found.append("it has a fence device and says unfenced")
    fence = host.fence
    if not _AGENT.fullmatch(fence.agent) or "/../" in fence.agent:
        found.append("fence.agent is no program fence_…")
    for key, value in {**fence.parameters, **fence.secrets}.items():
        if not _PARAMETER.fullmatch(key) or key in ("action", "option"):
            found.append(f"fence has no parameter {key!r}")
        if any(ord(letter) < 32 for letter in value):
            found.append(f"the value of the parameter {key} of fence is not one line")
    found += [f"fence.{key} is given twice" for key in fence.parameters.keys() & fence.secrets.keys()]
    if not (fence.timeout > 0 and fence.status_timeout > 0):
        found.append("time-outs of fence must be above 0")
    return found


def lacking(host: HostSettings, transport: str) -> str:
    """Say what a host's settings lack for a transport; empty when nothing."""
    if transport == "ssh" and not host.key_file:
        return "transport ssh needs its key_file and host_key"
    if transport == "remote" and not host.agent_key_file:
        return "transport remote needs its agent_key_file"
    return ""


def access(name: str, host: HostSettings) -> Access:
    """Return the keys of a host; Unavailable when a file can not be read, or others can read it."""
    agent_key = _secret(name, host.agent_key_file) if host.agent_key_file else b""
    try:
        private_key = _secret(name, host.key_file).decode("ascii") if host.key_file else ""
    except UnicodeDecodeError as error:
        raise _unreadable(name, host.key_file, "is no ssh key") from error
    return Access(
        identity=Identity(hostname=name, agent_key=agent_key), private_key=private_key, host_key=host.host_key
    )


def secret_parameters(name: str, fence: FenceSettings) -> dict[str, str]:
    """Return the parameters of a fence device that stand in files; Unavailable as `access`."""
    found = {}
    for key, path in fence.secrets.items():
        lines = _secret(name, path).decode(errors="replace").splitlines()
        if not lines or any(ord(letter) < 32 for letter in lines[0]):
            raise _unreadable(name, path, "holds no line of text")
        found[key] = lines[0]
    return found


def _secret(name: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            if stat.S_IMODE(Path(path).stat().st_mode) & 0o077:
                raise _unreadable(name, path, "can be read by others", f"chmod 600 {path}")
            return file.read(_SECRET_BYTES)
    except OSError as error:
        raise _unreadable(name, path, f"can not be read: {error.strerror}") from error


def _unreadable(name: str, path: str, why: str, hint: str = "") -> Unavailable:
    return Unavailable(Problem(code="HOST_SECRET", message=f"host {name}: the file {path} {why}", hint=hint))


def unfenced(name: str) -> Problem:
    """Return what is said of a host without a fence device, when nobody said that this is meant."""
    return Problem(
        code="HOST_UNFENCED",
        message=f"host {name} has no fence device: when it can not be reached, nobody could confirm that it is isolated",
        path=f"infrastructures.hosts.host.{name}",
        hint=f"configure [infrastructures.hosts.host.{name}.fence], or write `unfenced = true` there: then it is watched, "
        "but never declared dead",
    )
