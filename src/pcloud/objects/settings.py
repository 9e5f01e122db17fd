"""What can be set about the object store, and where its secrets are. Secrets are never settings: those are shown.

Blocking: reads small files.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

S3_SECRET = "PCLOUD_OBJECT_STORE_SECRET"  # noqa: S105  the name of a variable
SWIFT_KEY = "PCLOUD_SWIFT_KEY"
VARIABLES = frozenset({S3_SECRET, SWIFT_KEY})
"""For the daemon alone; no process that it starts may have them."""
_LONGEST = 4096


class SwiftSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[object_store.swift]`: the same store by OpenStack Swift's own API."""

    auth_url: str = ""
    """Where a token is asked for (version 1), such as `https://swift.example.org/auth/v1.0`."""
    user: str = ""
    """`ACCOUNT:USER`."""
    cloud: str = ""
    """Instead of the others: entry of `clouds.yaml` whose Keystone gives the token and tells where the store is."""
    key_file: str = ""
    """File with the user's key, readable by its owner alone; empty takes `$PCLOUD_SWIFT_KEY`."""


class ObjectStoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[object_store]`: where buckets of stacks are made."""

    url: str = ""
    """S3 endpoint, such as `https://s3.example.org`."""
    region: str = "us-east-1"
    access_key: str = ""
    """Id of the access key."""
    secret_file: str = ""
    """File with the secret key, readable by its owner alone; empty takes `$PCLOUD_OBJECT_STORE_SECRET`."""
    addressing: str = "path"
    """`path` for `URL/BUCKET`, `virtual` for `BUCKET.HOST`."""
    website_url: str = ""
    """What the store serves a bucket's website under, with `{bucket}` in it; empty is the bucket's own URL."""
    ca_file: str = ""
    """PEM file of the authorities that vouch for the store; empty takes the usual ones."""
    timeout: float = 30.0
    """Seconds that the store may be silent."""
    swift: SwiftSettings = SwiftSettings()


def problems(settings: ObjectStoreSettings) -> Iterator[tuple[str, str]]:
    """Yield (key, sentence) of everything that types can not express."""
    for key, url in (("url", settings.url), ("swift.auth_url", settings.swift.auth_url)):
        if url and (sentence := _wrong_url(url)):
            yield key, sentence
    if bool(settings.url) != bool(settings.access_key):
        yield "access_key" if settings.url else "url", "url and access_key must be set together"
    if bool(settings.swift.auth_url) != bool(settings.swift.user):
        yield "swift.user" if settings.swift.auth_url else "swift.auth_url", "auth_url and user must be set together"
    if settings.swift.cloud and settings.swift.auth_url:
        yield "swift.cloud", "cloud (Keystone) and auth_url (version 1) exclude each other"
    if settings.addressing not in ("path", "virtual"):
        yield "addressing", "must be path or virtual"
    if settings.website_url and ("{bucket}" not in settings.website_url or _wrong_url(settings.website_url)):
        yield "website_url", "must be an http or https URL with {bucket} in it"
    if not 1 <= settings.timeout <= 600:
        yield "timeout", "must be between 1 and 600 seconds"


def _wrong_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises where it is no number
    except ValueError:
        return "must be an http or https URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        return "must be an http or https URL"
    if parts.username is not None or parts.query or parts.fragment:
        return "must hold no user, password, query or fragment"
    return ""


class NoSecret(Exception):
    """There is no secret that may be used; the sentence says why, and holds nothing of it."""


def secret(file: str, variable: str, environment: MutableMapping[str, str]) -> str:
    """Return a secret: from its file if one is named, else from the environment, where it is removed so that no child
    process gets it. NoSecret."""
    given = environment.pop(variable, "")
    if not file:
        if not given:
            raise NoSecret(f"no file names the secret, and ${variable} is not set")
        return given
    path = Path(file)
    try:
        with path.open("rb") as opened:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = opened.read(_LONGEST + 1)
    except OSError as error:
        raise NoSecret(f"{file} can not be read: {error.strerror}") from error
    if mode & 0o077:
        raise NoSecret(f"{file} can be read by others (mode {mode:04o}): chmod 600 {file}")
    text = content.decode("utf-8", "replace").strip()
    if not text or len(content) > _LONGEST or any(character.isspace() or character == "\ufffd" for character in text):
        raise NoSecret(f"{file} must hold the secret alone, in one line")
    return text
