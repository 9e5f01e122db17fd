"""A real Swift for the tests, run by `tests/peers/swift.sh`: S3 and Swift's own API over one account."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcloud.objects.settings import ObjectStoreSettings, SwiftSettings

SCRIPT = Path(__file__).parents[1] / "peers/swift.sh"
FOLDER = Path(os.environ.get("SWIFT_PEER_DIR", "/var/cache/pcloud-test/swift"))
USER, REGION = "pcloud:test", "local"


def peer(*arguments: str, keystone: str = "") -> None:
    """Run the script."""
    log = FOLDER / "tests.log"
    with log.open("ab") as file:  # a pipe would be held open by the daemons
        done = subprocess.run(
            [str(SCRIPT), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            check=False,
            env={**os.environ, "PEER_DIR": str(FOLDER), "KEYSTONE_URL": keystone},
        )
    assert done.returncode == 0, log.read_text(errors="replace")[-2000:]


class Swift:
    """The running peer."""

    def __init__(self) -> None:
        self.url = (FOLDER / "url").read_text().strip()
        self.secret_file = FOLDER / "secret"
        self.secret = self.secret_file.read_text().strip()
        self._client = client(self.url, USER, self.secret)

    def settings(self, **changed: Any) -> ObjectStoreSettings:
        """What a daemon is told to use it."""
        secret = str(self.secret_file)
        swift = SwiftSettings(auth_url=f"{self.url}/auth/v1.0", user=USER, key_file=secret)
        given = {
            "url": self.url,
            "region": REGION,
            "access_key": USER,
            "secret_file": secret,
            "swift": swift,
            **changed,
        }
        return ObjectStoreSettings(**given)

    def toml(self) -> str:
        """The same as text."""
        given = self.settings()
        return (
            f'[object_store]\nurl = "{given.url}"\nregion = "{given.region}"\naccess_key = "{given.access_key}"\n'
            f'secret_file = "{given.secret_file}"\n[object_store.swift]\nauth_url = "{given.swift.auth_url}"\n'
            f'user = "{given.swift.user}"\nkey_file = "{given.swift.key_file}"\n'
        )

    def s3(self) -> Any:
        """A client of the tests' own, to look from the other side."""
        return self._client

    def names(self) -> list[str]:
        """The buckets that there are."""
        return [item["Name"] for item in self.s3().list_buckets()["Buckets"]]


def client(url: str, key: str, secret: str, region: str = REGION) -> Any:
    """Make a client of S3."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3", endpoint_url=url, region_name=region, aws_access_key_id=key, aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )  # fmt: skip


@contextlib.contextmanager
def running(keystone: str = "") -> Iterator[Swift]:
    """Run it, with users of its own or a Keystone's (its URL). What an aborted run left is ended first; another run on this
    machine is waited for."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the daemons of Swift")
    if subprocess.run([str(SCRIPT), "installed"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Swift here: tools/setup-tests installs one")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (FOLDER / "tests.log").unlink(missing_ok=True)
        peer("start", keystone=keystone)
        try:
            yield Swift()
        finally:
            peer("stop")
