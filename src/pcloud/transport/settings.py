"""How guests are reached: `[transports.remote]` and `[transports.ssh]` of the configuration. Every time in seconds."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guests with an agent."""

    poke_interval: float = 10.0
    """A guest that says nothing is asked to answer this often."""
    poke_timeout: float = 10.0
    """How long an answer may take before the connection counts as lost."""
    poke_rate: float = 400.0
    """Guests asked a second at most; with very many guests each is asked less often."""
    ca: str = ""
    """PEM file of who signed the guests' certificates. With it both sides prove themselves by X.509, whatever the guest,
    instead of by the pre-shared key of each."""
    certificate: str = ""
    """PEM file of our own certificate."""
    key: str = ""
    """PEM file of its private key."""
    crl: str = ""
    """PEM file of certificates that were withdrawn."""


class SshSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guests with sshd."""

    keepalive_interval: float = 15.0
    """Between two keep-alives of the ssh protocol on a connection that is otherwise silent."""
    keepalive_count: int = 3
    """Unanswered keep-alives until the connection counts as lost."""
    health_interval: float = 3.0
    """Between the end of one health check (a command that must end with 0) and the next."""
    health_timeout: float = 5.0
    """How long a health check may take; one that takes longer means that the guest is silent."""
    handshakes: int = 8
    """Handshakes at once of the whole transport; each costs this host some milliseconds of computing."""
    sessions: int = 8
    """Commands at once in one guest. sshd grants 10 sessions a connection; the health check and the watch need one each."""
    exit_poll: float = 0.2
    """How often the guest looks whether a watched process still exists; 0 turns the watch off."""


class TransportSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[transports]`."""

    remote: RemoteSettings = RemoteSettings()
    ssh: SshSettings = SshSettings()


def problems(settings: TransportSettings) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with settings: the key, and a sentence."""
    remote, ssh = settings.remote, settings.ssh
    for key in ("poke_interval", "poke_timeout", "poke_rate"):
        if getattr(remote, key) <= 0:
            yield f"remote.{key}", "must be above 0"
    together = ("ca", "certificate", "key")
    if any(getattr(remote, key) for key in (*together, "crl")):
        for key in together:
            if not getattr(remote, key):
                yield f"remote.{key}", "ca, certificate and key must be set together"
    for key in ("keepalive_interval", "health_interval", "health_timeout"):
        if getattr(ssh, key) <= 0:
            yield f"ssh.{key}", "must be above 0"
    for key in ("keepalive_count", "handshakes", "sessions"):
        if getattr(ssh, key) < 1:
            yield f"ssh.{key}", "must be at least 1"
    if ssh.exit_poll < 0:
        yield "ssh.exit_poll", "must not be negative"
