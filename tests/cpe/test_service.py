"""The daemon as a service: TLS, what it tells the service manager, and its settings read again. As docs/configuration.md and
docs/systemd.md promise."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from pcloud.cpe.certificates import self_signed
from tests.cpe.harness import PATIENCE, DaemonProcess, end_engines, engines_of, manifest, until
from tests.ports import free_port

BIN = Path(sys.executable).parent


# --- TLS


class Place:
    """The real commands and the real daemon on a home of their own."""

    def __init__(self, folder: Path, scheme: str = "https") -> None:
        self.home = folder / "home"
        self.url = f"{scheme}://127.0.0.1:{free_port()}"
        self.environment = {
            "PATH": os.environ["PATH"], "PCLOUD_HOME": str(self.home), "PCLOUD_URL": self.url, "PCLOUD__ENGINE__SLOTS": "1",
            "HOME": str(folder),
        }  # fmt: skip

    def pcloud(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        out = self.home.with_name("out")
        with out.open("w") as file:  # a daemon would hold a pipe open
            done = subprocess.run(
                [BIN / "pcloud", *words], env=self.environment | environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False,
            )  # fmt: skip
        done.stdout = out.read_text()
        return done

    def close(self) -> None:
        self.pcloud("down")
        for lock in (self.home / "run").glob("*.lock"):
            text = lock.read_text().strip()
            if text.isdigit() and str(self.home).encode() in _command(int(text)):
                os.kill(int(text), signal.SIGKILL)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_tls_by_one_word_from_up_to_down(place: Place, tmp_path: Path) -> None:
    up = place.pcloud("up", "--detach")
    assert up.returncode == 0, up.stdout
    assert place.url in up.stdout
    assert place.pcloud("get", "-o", "json").stdout.strip() == "[]"
    until(lambda: "daemon.started" in place.pcloud("events", "-o", "json").stdout, "its start is told")
    for file in ("certificate.pem", "key.pem"):
        assert (place.home / "tls" / file).stat().st_mode & 0o777 == 0o600
    with pytest.raises(httpx2.ConnectError, match="certificate"):
        httpx2.get(f"{place.url}/healthz", trust_env=False, timeout=PATIENCE)
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{place.url.replace('https', 'http')}/healthz", trust_env=False, timeout=PATIENCE)
    # From elsewhere: without the state folder, with a copy of the certificate.
    token = (place.home / "token").read_text().strip()
    elsewhere = {"PCLOUD_HOME": str(tmp_path / "nowhere"), "PCLOUD_TOKEN": token}
    refused = place.pcloud("get", **elsewhere)
    assert refused.returncode != 0
    assert "PCLOUD_CA" in refused.stdout
    copy = tmp_path / "ca.pem"
    copy.write_bytes((place.home / "tls/certificate.pem").read_bytes())
    assert place.pcloud("get", "-o", "json", PCLOUD_CA=str(copy), **elsewhere).stdout.strip() == "[]"
    copy.write_text("no certificate")
    bad = place.pcloud("get", PCLOUD_CA=str(copy), **elsewhere)
    assert "BAD_CA" in bad.stdout
    assert place.pcloud("down").returncode == 0


def test_a_certificate_of_ones_own(daemon: DaemonProcess, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path / "own", "127.0.0.1")
    daemon.home.mkdir()
    (daemon.home / "pcloud.toml").write_text(f'[api]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n')
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.stdout is not None
    url = daemon.process.stdout.readline().strip()
    assert url.startswith("https://")
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert httpx2.get(f"{url}/healthz", verify=trusting, trust_env=False, timeout=PATIENCE).status_code == 200
    assert not (daemon.home / "tls").exists()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ('tls_certificate = "CERT"\n', "api.tls_key"),
        ('tls_key = "KEY"\n', "api.tls_certificate"),
        ('tls_certificate = "/nowhere/c.pem"\ntls_key = "KEY"\n', "/nowhere/c.pem"),
        ('tls_certificate = "KEY"\ntls_key = "CERT"\n', "can not be used"),
    ],
)
def test_a_wrong_certificate_is_said_at_the_start(tmp_path: Path, settings: str, what: str) -> None:
    certificate, key = self_signed(tmp_path / "own", "127.0.0.1")
    home = tmp_path / "home"
    home.mkdir()
    (home / "pcloud.toml").write_text(
        "[api]\n" + settings.replace("CERT", str(certificate)).replace("KEY", str(key)) + "[engine]\nslots = 1\n"
    )
    environment = {**os.environ, "FAKE_GUESTS": str(tmp_path)}
    environment.pop("PCLOUD_URL", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.cpe.fake_daemon", str(home)],
        env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    try:
        until(lambda: not engines_of(home), "engines, which have nothing to look after, are gone")
    finally:
        end_engines(home)
    assert done.returncode == 1
    assert what in done.stderr
    assert "Traceback" not in done.stderr


# --- the service manager


class Manager:
    """The service manager's end of sd_notify."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(PATIENCE)

    def next(self, *, but: str = "WATCHDOG=1") -> str:
        while True:
            text = self.socket.recv(4096).decode()
            if text != but:
                return text

    def within(self, seconds: float) -> list[str]:
        """Return what is told in that time."""
        found, deadline = [], time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                found.append(self.socket.recv(4096).decode())
            except TimeoutError:
                break
        self.socket.settimeout(PATIENCE)
        return found


@pytest.fixture
def manager(tmp_path: Path, daemon: DaemonProcess) -> Iterator[Manager]:
    made = Manager(tmp_path)
    daemon.environment |= {"NOTIFY_SOCKET": str(made.path), "WATCHDOG_USEC": "900000"}
    yield made
    made.socket.close()


def test_the_service_manager_is_told_and_the_watchdog_is_fed(manager: Manager, daemon: DaemonProcess) -> None:
    daemon.start(wait=False)
    assert manager.next() == "READY=1"
    daemon.wait_ready()
    assert daemon.client.get("/healthz").status_code == 200, "it says that it is ready when it answers"
    assert [manager.next(but="") for _ in range(4)] == ["WATCHDOG=1"] * 4, "again and again"
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    reloading = manager.next()
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC="), "what Type=notify-reload wants to know"
    assert manager.next() == "READY=1"
    daemon.process.send_signal(signal.SIGSTOP)
    manager.within(0.3)
    assert manager.within(1.2) == [], "a daemon that hangs feeds no watchdog: four times it would have"
    daemon.process.send_signal(signal.SIGCONT)
    assert manager.next(but="") == "WATCHDOG=1"
    daemon.process.send_signal(signal.SIGTERM)
    assert manager.next() == "STOPPING=1"
    assert daemon.process.wait(PATIENCE) == 0
    assert daemon.process.stdout is not None
    daemon.process.stdout.close()


def test_engines_do_not_speak_for_the_service(manager: Manager, daemon: DaemonProcess) -> None:
    daemon.start()
    until(lambda: len(daemon.engines()) == 2, "the engines run")
    for pid in daemon.engines().values():
        names = {line.partition(b"=")[0] for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        assert not names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC"}


# --- settings read again


def settled(daemon: DaemonProcess, text: str, told: str) -> None:
    before = len(daemon.events(type="daemon.settings"))
    (daemon.home / "pcloud.toml").write_text(text)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: len(daemon.events(type="daemon.settings")) > before, "it tells of it")
    assert told in daemon.events(type="daemon.settings")[-1]["data"]["reason"]


def test_sighup_takes_over_what_the_documents_say_and_a_mistake_changes_nothing(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    del daemon.environment["PCLOUD__ENGINE__SLOTS"]
    daemon.home.mkdir()
    (daemon.home / "pcloud.toml").write_text("[engine]\nslots = 1\n")
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    guests = {name: text for name, text in daemon.guest_files("shop").items() if not name.startswith("loads")}
    (first,) = daemon.engines().values()

    delivered = tmp_path / "delivered"
    sink = f'[[sinks]]\nname = "file"\nkind = "command"\ncommand = ["/bin/sh", "-c", "cat >> {delivered}"]\n'
    settled(daemon, "[engine]\nslots = 2\nstarts_in_flight = 3\n" + sink, "were reloaded")
    until(lambda: len(daemon.engines()) == 2, "a second engine process")
    assert daemon.engines()["0"] == first, "nothing else was touched"
    until(
        lambda: sorted(path.read_text() for path in daemon.guests.glob("starts.?")) == ["1", "2"],
        "what is set for the storm brake is divided over them",
    )
    daemon.apply(manifest("wiki"))
    daemon.running("wiki")
    until(lambda: delivered.exists() and "wiki" in delivered.read_text(), "the new sink delivers")

    settled(daemon, "[engine]\nslots = 'many'\n", "not reloaded")
    assert len(daemon.engines()) == 2
    settled(daemon, "[engine\n", "not reloaded")

    before = daemon.engines()
    settled(daemon, '[engine]\nslots = 2\n[infrastructures.lxc]\nbridge = "other"\n', "reloaded")
    assert "start anew" in daemon.events(type="daemon.settings")[-2]["data"]["reason"]
    until(
        lambda: len(daemon.engines()) == 2 and not set(daemon.engines().values()) & set(before.values()),
        "engine processes with the new settings",
    )
    daemon.running("shop")
    assert {k: v for k, v in daemon.guest_files("shop").items() if not k.startswith("loads")} == guests
    assert daemon.events(type="engine.silent") == []


def test_silence_timeout_and_retention_change_at_once(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    daemon.call("POST", "/v1/deployables/shop/assemblies/web/exec", 200, json={"argv": ["flood", "100"]})
    until(lambda: len(daemon.events(type="flood")) == 100, "many events")
    settled(daemon, "[engine]\nsilence_timeout = 2\n[store]\nkeep_events = 5\n", "were reloaded")
    pid = daemon.engines()["0"]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: daemon.engines().get("0") not in (pid, None), "another engine process")
    until(lambda: len(daemon.events(type="flood")) <= 5, "older events are removed")
