"""Which object of the configured store a URL means; every other URL means none. Pure."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from pcloud.objects.settings import ObjectStoreSettings

_PORTS = {"http": 80, "https": 443}


class ObjectName(msgspec.Struct, frozen=True, kw_only=True):
    """An object in a bucket."""

    bucket: str
    key: str
    version: str = ""


def object_of(settings: ObjectStoreSettings, url: str) -> ObjectName | None:
    """Return the object that `s3://BUCKET/KEY`, `ENDPOINT/BUCKET/KEY` or `SCHEME://BUCKET.HOST/KEY` means, the last two with
    `?versionId=…` at most; None for what is not in the store of these settings."""
    try:
        given, endpoint = urlsplit(url), urlsplit(settings.url)
        ports = given.port or _PORTS.get(given.scheme), endpoint.port or _PORTS.get(endpoint.scheme)
    except ValueError:
        return None
    if not settings.url or given.username is not None or given.password is not None or given.fragment:
        return None
    query = dict(parse_qsl(given.query, keep_blank_values=True))
    version = query.pop("versionId", "")
    if query:
        return None
    if given.scheme == "s3":
        return _named(given.netloc, given.path[1:], version)
    host, ours = given.hostname or "", endpoint.hostname or ""
    if given.scheme != endpoint.scheme or ports[0] != ports[1]:
        return None
    base = endpoint.path.rstrip("/") + "/"
    if not given.path.startswith(base):
        return None
    path = unquote(given.path[len(base) :])
    if host == ours:
        bucket, _, key = path.partition("/")
        return _named(bucket, key, version)
    return _named(host.removesuffix(f".{ours}"), path, version) if host.endswith(f".{ours}") else None


def _named(bucket: str, key: str, version: str) -> ObjectName | None:
    return ObjectName(bucket=bucket, key=key, version=version) if bucket and key else None
