"""Which URLs are of the configured object store. Nothing else is ever asked for a template."""

from __future__ import annotations

import pytest

from pcloud.objects.settings import ObjectStoreSettings
from pcloud.objects.urls import ObjectName, object_of

STORE = ObjectStoreSettings(url="https://s3.example.org", access_key="k")
BASE = ObjectStoreSettings(url="http://s3.example.org:8080/base/", access_key="k")


@pytest.mark.parametrize(
    ("settings", "url", "found"),
    [
        (STORE, "s3://b/k.yaml", ("b", "k.yaml", "")),
        (STORE, "s3://b/a/k%20x", ("b", "a/k%20x", "")),
        (STORE, "https://s3.example.org/b/a/k%20x", ("b", "a/k x", "")),
        (STORE, "https://S3.EXAMPLE.org:443/b/k", ("b", "k", "")),
        (STORE, "https://b.s3.example.org/a/k", ("b", "a/k", "")),
        (STORE, "https://b.s3.example.org/k?versionId=3", ("b", "k", "3")),
        (BASE, "http://s3.example.org:8080/base/b/k", ("b", "k", "")),
        (BASE, "http://b.s3.example.org:8080/base/k", ("b", "k", "")),
    ],
)
def test_objects_of_the_store(settings: ObjectStoreSettings, url: str, found: tuple[str, str, str]) -> None:
    bucket, key, version = found
    assert object_of(settings, url) == ObjectName(bucket=bucket, key=key, version=version)


@pytest.mark.parametrize(
    "url",
    [
        "", "k.yaml", "s3://", "s3://b", "s3:///k", "https://s3.example.org/b", "https://s3.example.org//k",
        "http://s3.example.org/b/k", "https://s3.example.org:8443/b/k", "https://example.org/b/k",
        "https://s3.example.org.evil.test/b/k", "https://evils3.example.org/k", "https://u:p@s3.example.org/b/k",
        "https://s3.example.org@evil.test/b/k", "https://s3.example.org/b/k?acl", "https://s3.example.org/b/k#f",
        "https://.s3.example.org/k", "file:///etc/passwd", "https://[::1", "https://s3.example.org:x/b/k",
        "http://169.254.169.254/latest/meta-data",
    ],
)  # fmt: skip
def test_other_urls_are_none(url: str) -> None:
    assert object_of(STORE, url) is None
    assert object_of(ObjectStoreSettings(), url) is None
