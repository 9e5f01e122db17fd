"""Settings of the object store: what is refused, and where secrets are read from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcloud.cpe.settings import load
from pcloud.model.errors import InvalidDocument
from pcloud.objects.settings import NoSecret, ObjectStoreSettings, secret
from pcloud.objects.store import UNCONFIGURED, ObjectStore


def refused(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "pcloud.toml"
    path.write_text(text)
    with pytest.raises(InvalidDocument) as caught:
        load(path, {})
    return {problem.path: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("text", "key", "sentence"),
    [
        ('url = "ftp://x"\naccess_key = "k"', "url", "http or https"),
        ('url = "https://user:pw@x"\naccess_key = "k"', "url", "no user, password"),
        ('url = "https://x/?a=b"\naccess_key = "k"', "url", "no user, password"),
        ('url = "https://x:port"\naccess_key = "k"', "url", "http or https"),
        ('url = "https://x"', "access_key", "together"),
        ('access_key = "k"', "url", "together"),
        ('addressing = "both"', "addressing", "path or virtual"),
        ('website_url = "https://x"', "website_url", "{bucket}"),
        ("timeout = 0", "timeout", "seconds"),
        ('[object_store.swift]\nuser = "a:b"', "swift.auth_url", "together"),
        ('[object_store.swift]\nauth_url = "https://x"', "swift.user", "together"),
        ('[object_store.swift]\nauth_url = "https://x"\nuser = "u"\ncloud = "c"', "swift.cloud", "exclude"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, key: str, sentence: str) -> None:
    assert sentence in refused(tmp_path, f"[object_store]\n{text}\n")[f"object_store.{key}"]


def test_a_secret_is_no_setting(tmp_path: Path) -> None:
    found = refused(tmp_path, '[object_store]\nsecret = "s3cret"\n')
    assert "no setting `secret`" in " ".join(found.values())
    assert "s3cret" not in repr(found)


def test_a_secret_is_read_from_a_private_file_or_taken_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hidden\n")
    path.chmod(0o640)
    with pytest.raises(NoSecret, match="chmod 600") as caught:
        secret(str(path), "V", {})
    assert "hidden" not in str(caught.value)
    path.chmod(0o600)
    assert secret(str(path), "V", {}) == "hidden"
    environment = {"V": "other", "W": "1"}
    assert secret("", "V", environment) == "other"
    assert environment == {"W": "1"}, "no child process gets it"
    for wrong in ("", "two words", "two\nlines", "x" * 5000):
        path.write_text(wrong)
        with pytest.raises(NoSecret, match="one line"):
            secret(str(path), "V", {})
    with pytest.raises(NoSecret, match="No such file"):
        secret(str(tmp_path / "absent"), "V", {})


def test_without_a_secret_there_are_no_buckets_and_it_says_why() -> None:
    store = ObjectStore(ObjectStoreSettings(url="https://x", access_key="k"), {})
    assert store.buckets is None
    assert "PCLOUD_OBJECT_STORE_SECRET is not set" in store.no_buckets
    assert ObjectStore().no_buckets == UNCONFIGURED
