"""Images made by others, through REST and the command line: what is right is taken and can be used, the rest is refused."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.cpe.harness import PATIENCE, DaemonProcess, until

MANIFEST = """\
deployable: box
infrastructure: @INFRASTRUCTURE@
assemblies:
  box:
    image: appliance
    @MORE@
    resources:
      front: {template: nginx}
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Path:
    """A disk image larger than any other request may be."""
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed (make setup-libvirt)")
    folder = tmp_path_factory.mktemp("disk")
    raw, path = folder / "raw", folder / "cloud.qcow2"
    raw.write_bytes(os.urandom(12 << 20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)], check=True)
    return path


def digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def send(
    daemon: DaemonProcess, content: bytes, name: str = "appliance", arch: str = "x86_64", **query: str
) -> httpx2.Response:
    return daemon.client.put(f"/v1/jeos/{name}/{arch}", content=content, params=query)


def refused(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["errors"][0]["code"]


def left(daemon: DaemonProcess) -> list[str]:
    return [path.name for path in (daemon.home / "images/imported").glob("[!.]*")]


def document(infrastructure: str, more: str = "transport: ssh") -> str:
    return MANIFEST.replace("@INFRASTRUCTURE@", infrastructure).replace("@MORE@", more)


def test_what_is_refused(daemon: DaemonProcess, disk: Path) -> None:
    content, right = disk.read_bytes(), digest(disk)
    assert refused(send(daemon, content, digest="sha256:" + "0" * 64)) == (422, "DIGEST_MISMATCH")
    assert refused(send(daemon, content, digest="sha256:12")) == (422, "INVALID_DIGEST")
    assert refused(send(daemon, content)) == (422, "INVALID_REQUEST")
    assert refused(send(daemon, content, name="bookworm", digest=right)) == (409, "IMAGE_EXISTS")
    assert refused(send(daemon, content, name=".x", digest=right)) == (422, "INVALID_NAME")
    assert refused(send(daemon, content, arch="vax", digest=right)) == (422, "UNKNOWN_ARCH")
    assert refused(send(daemon, content, digest=right, like="multics")) == (404, "UNKNOWN_DISTRIBUTION")
    text = b"<html>not found</html>" * 100
    wrong = send(daemon, text, digest=f"sha256:{hashlib.sha256(text).hexdigest()}")
    assert refused(wrong) == (422, "NOT_A_DISK")
    made = daemon.call("POST", "/v1/tokens", 201, json={"name": "eve", "role": "viewer"})
    anonymous = httpx2.Client(
        base_url=daemon.client.base_url, headers={"X-Auth-Token": made["token"]}, timeout=PATIENCE
    )
    assert refused(anonymous.put("/v1/jeos/a/x86_64", content=content, params={"digest": right})) == (403, "FORBIDDEN")
    anonymous.close()
    assert left(daemon) == []


def test_a_sender_that_goes_away_leaves_nothing(daemon: DaemonProcess, disk: Path) -> None:
    url = daemon.client.base_url
    with socket.create_connection((url.host, url.port)) as half:
        head = f"PUT /v1/jeos/half/x86_64?digest={digest(disk)} HTTP/1.1\r\nHost: {url.host}\r\n"
        head += f"Authorization: {daemon.client.headers['Authorization']}\r\nContent-Length: 12000000\r\n\r\n"
        half.sendall(head.encode() + disk.read_bytes()[:3_000_000])
        until(lambda: (daemon.home / "images/imported/.new-half-x86_64").exists(), "the import begins")
    until(lambda: not (daemon.home / "images/imported/.new-half-x86_64").exists(), "what was sent is removed")
    assert left(daemon) == []


def test_taken_over_and_used(daemon: DaemonProcess, disk: Path) -> None:
    token = daemon.home / "token"
    command = [Path(sys.executable).parent / "pcloud", "--url", str(daemon.client.base_url), "--token-file", str(token)]
    words = ["image", "import", str(disk), "--name", "appliance", "--digest", digest(disk), "--like", "bookworm"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "appliance x86_64: ready\n"), done.stderr
    again = send(daemon, disk.read_bytes(), digest=digest(disk), like="bookworm")
    assert again.status_code == 201, "the same one again is no change"
    assert "appliance" in [one["name"] for one in daemon.call("GET", "/v1/jeos")]

    def problems(text: str) -> set[tuple[str, str]]:
        found = daemon.client.post("/v1/deployables", content=text, params={"dry_run": "true"})
        return {(one["code"], one["path"]) for one in found.json().get("errors", ())}

    at = "assemblies.box"
    assert problems(document("libvirt")) == set()
    assert problems(document("lxc")) == {("IMAGE_IS_A_DISK", f"{at}.image")}
    assert problems(document("libvirt", "arch: x86_64")) == {("IMAGE_AS_IT_IS", f"{at}.transport")}
    assert problems(document("libvirt", "packages: [vim]\n    transport: ssh")) == {
        ("IMAGE_AS_IT_IS", f"{at}.packages")
    }
    assert problems(document("libvirt", "transport: ssh\n    saved_state: true")) == set()
    plain = document("lxc", "saved_state: true").replace("appliance", "bookworm")
    assert problems(plain) == {("CAPABILITY_MISSING", f"{at}.saved_state")}
    daemon.apply(document("libvirt"))
    assert refused(daemon.client.delete("/v1/jeos/appliance/x86_64")) == (409, "JEOS_IN_USE")
    daemon.call("DELETE", "/v1/deployables/box", 202)
    until(lambda: daemon.client.get("/v1/deployables/box").status_code == 404, "the deployable goes")
    daemon.call("DELETE", "/v1/jeos/appliance/x86_64", 204)
    assert problems(document("libvirt")) == {("UNKNOWN_IMAGE", f"{at}.image")}
    assert left(daemon) == []
