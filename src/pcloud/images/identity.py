"""Identities of guests: made per assembly, so that one guest's keys open no other. Pure but for the random source."""

from __future__ import annotations

import secrets

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pcloud.model.image import Identity

AGENT_KEY_SIZE = 256
"""Bytes. Both GnuTLS and Pacemaker take up to 4096 bits and more; this is 2048."""


class IdentityMaterial(msgspec.Struct, frozen=True, kw_only=True):
    """An identity with our halves of its keys. Holds secrets: never logged, stored with mode 0600."""

    identity: Identity
    private_key: str
    """OpenSSH private key that opens the guest."""
    host_key: str
    """The guest's public ssh host key, one line, to be pinned."""
    machine_id: str
    """32 hexadecimal digits, for infrastructures that hand it to the guest; LXC guests make their own."""

    def __repr__(self) -> str:
        return f"IdentityMaterial(hostname={self.identity.hostname!r}, …)"


def make_identity(hostname: str) -> IdentityMaterial:
    """Make a new identity; a clone of an assembly gets one too."""
    private_key, public_key = _key_pair(f"pcloud@{hostname}")
    host_private_key, host_key = _key_pair(hostname)
    return IdentityMaterial(
        identity=Identity(
            hostname=hostname,
            authorized_key=public_key,
            agent_key=secrets.token_bytes(AGENT_KEY_SIZE),
            host_private_key=host_private_key,
        ),
        private_key=private_key,
        host_key=host_key,
        machine_id=secrets.token_hex(16),
    )


def _key_pair(comment: str) -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} {comment}"
