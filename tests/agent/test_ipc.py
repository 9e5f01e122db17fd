"""Local IPC against clients that do not behave: strangers, liars, sleepers. `tests/peers` has the real ones."""

import errno
import os
import secrets
import socket
import struct
import time
from pathlib import Path

import pytest

from pcloud.agent import ipc, system
from pcloud.agent.ipc_channel import MAX_QUEUED, abstract
from pcloud.agent.loop import Loop

pytestmark = pytest.mark.real


class Owner:
    """Stands for the relay: takes every client, and remembers what came."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.refuse = 0
        self.messages: list[tuple[int, int, bytes]] = []
        self.clients: list[ipc.Connection] = []
        self.closed: list[ipc.Connection] = []
        self.server = ipc.Server(
            self.loop,
            on_new=self.on_new,
            on_message=lambda _client, number, flags, text: self.messages.append((number, flags, text)),
            on_closed=self.closed.append,
        )
        self.name = f"pcloud-test-{secrets.token_hex(4)}"
        self.server.listen(self.name)

    def on_new(self, client: ipc.Connection) -> int:
        client.session = "one"
        self.clients.append(client)
        return self.refuse

    def until(self, condition, seconds: float = 60.0) -> None:
        """Run the loop until something holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            timer = self.loop.later(0.01, lambda: None)
            self.loop.once()
            timer.cancel()


class Client:
    """A client as libqb makes it, as far as a test needs it."""

    def __init__(self, owner: Owner, asked: int = 131072) -> None:
        self.owner = owner
        self.setup = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.setup.connect(abstract(owner.name))
        self.setup.sendall(struct.pack("=i4xi4xI4x", -1, 24, asked))
        self.setup.setblocking(False)
        answer = b""

        def answered() -> bool:
            nonlocal answer
            try:
                answer += self.setup.recv(20000)
            except BlockingIOError:
                return False
            return len(answer) >= 12328

        owner.until(answered)
        _, size, self.error, self.kind, self.largest, _, control, response, _ = struct.unpack(
            "=i4xi4xi4xiIq4096s4096s4096s", answer
        )
        assert size == len(answer)
        self.control, self.response = control.rstrip(b"\0").decode(), response.rstrip(b"\0").decode()
        if not self.error:
            self.requests, self.events = (
                self._pair("response", "request"),
                self._pair("event", "event-tx"),
            )

    def _pair(self, mine: str, theirs: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.bind(abstract(f"{self.response}-{mine}"))
        made.connect(abstract(f"{self.response}-{theirs}"))
        made.setblocking(False)
        return made

    def send(self, text: bytes, number: int = 7, flags: int = 0x200, **wrong: int) -> None:
        """Send a request, right or wrong."""
        fields = {"size": 40 + len(text) + 1, "plain": len(text) + 1, "packed": 0, "version": 1, **wrong}
        header = struct.pack(
            "=i4xi4xi4xIIIB3x", number, fields["size"], 0, fields["plain"], fields["packed"], flags, fields["version"]
        )
        self.requests.send(header + text + b"\0")

    def close(self) -> None:
        for each in (self.setup, *((self.requests, self.events) if not self.error else ())):
            each.close()


@pytest.fixture
def owner():
    made = Owner()
    try:
        yield made
    finally:
        made.server.close()


@pytest.fixture
def client(owner):
    made = Client(owner)
    try:
        yield made
    finally:
        made.close()


def test_requests_responses_and_events(owner, client):
    assert client.error == 0
    assert client.kind == 0, "datagram sockets"
    assert Path(client.control).stat().st_size == 24
    assert Path(client.control).parent.stat().st_mode & 0o077 == 0
    client.send(b"<a/>")
    owner.until(lambda: owner.messages)
    assert owner.messages == [(7, 0x200, b"<a/>")]
    owner.clients[0].send(b"<b/>", 7, event=False)
    owner.clients[0].send(b"<c/>", 0, event=True)
    data = client.requests.recv(1000)
    assert struct.unpack_from("=i4xi4x", data) == (7, len(data))
    assert data[40:] == b"<b/>\0"
    assert client.events.recv(1000)[40:] == b"<c/>\0"


def test_the_clients_end_is_the_sessions_end(owner, client):
    folder = Path(client.control).parent
    client.close()
    owner.until(lambda: owner.closed)
    assert not folder.exists()


def test_a_refused_client_is_told_why(owner):
    owner.refuse = errno.EREMOTEIO
    refused = Client(owner)
    assert refused.error == -errno.EREMOTEIO
    refused.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 3},
        {"plain": 4000},
        {"plain": 0},
        {"plain": 0xFFFFFFFF},
        {"packed": 5},
        {"packed": 4000},
        {"version": 2},
    ],
)
def test_sizes_that_contradict_end_the_client(owner, client, wrong):
    client.send(b"<a/>", **wrong)
    owner.until(lambda: owner.closed)
    assert owner.messages == []


def test_bombs_and_damage(owner):
    import bz2

    bomb = bz2.compress(b"\0" * 30_000_000)
    for packed, plain in ((bomb, 30_000_000), (bomb, 1000), (b"BZh9damaged", 100)):
        client = Client(owner)
        before = len(owner.closed)
        client.requests.send(struct.pack("=i4xi4xi4xIIIB3x", 1, 40 + len(packed), 0, plain, len(packed), 1, 1) + packed)
        owner.until(lambda before=before: len(owner.closed) > before)
        client.close()
    assert owner.messages == []


def test_a_message_of_another_process_is_ignored(owner, client):
    """The names can be read by all; the kernel tells who sent."""
    child = os.fork()
    if child == 0:
        try:
            other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            text = b"<stolen/>\0"
            header = struct.pack("=i4xi4xi4xIIIB3x", 1, 40 + len(text), 0, len(text), 0, 0, 1)
            other.sendto(header + text, abstract(f"{client.response}-request"))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    client.send(b"<mine/>")
    owner.until(lambda: owner.messages)
    assert [text for _, _, text in owner.messages] == [b"<mine/>"]
    assert owner.closed == []


def test_garbage_and_silence_in_the_handshake(owner, monkeypatch):
    monkeypatch.setattr(ipc, "HANDSHAKE_TIMEOUT", 0.2)
    for data in (b"x" * 24, b"\xff" * 5, b""):
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stranger.connect(abstract(owner.name))
        stranger.sendall(data)
        stranger.setblocking(False)

        def ended(stranger=stranger) -> bool:
            try:
                return stranger.recv(10) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        owner.until(ended)
        stranger.close()
    assert owner.clients == []


def test_a_client_that_does_not_read_is_let_go(owner, client):
    sent = 0
    while not owner.closed and sent < 50_000:  # the kernel keeps some, we keep some
        owner.clients[0].send(b"<event/>", 0, event=True)
        sent += 1
    assert MAX_QUEUED < sent < 50_000


def test_a_slow_reader_gets_all_in_order(owner, client):
    for number in range(200):
        owner.clients[0].send(b"<e n='%d'/>" % number, 0, event=True)
    got: list[bytes] = []

    def read() -> bool:
        try:
            got.append(client.events.recv(1000)[40:-1])
        except BlockingIOError:
            pass
        return len(got) == 200

    owner.until(read, 60)
    assert got == [b"<e n='%d'/>" % number for number in range(200)]


def test_a_large_message_is_compressed_and_one_too_large_ends_the_client(owner, client):
    import bz2

    owner.clients[0].send(b"<e v='" + b"v" * 300_000 + b"'/>", 0, event=True)
    data = client.events.recv(300_000)
    _, size, _, plain, packed, flags, _ = struct.unpack_from("=i4xi4xi4xIIIB3x", data)
    assert (size, packed, flags) == (len(data), len(data) - 40, 0x10001)
    assert len(bz2.decompress(data[40:])) == plain == 300_000 + 10
    owner.clients[0].send(secrets.token_hex(300_000).encode(), 0, event=True)
    owner.until(lambda: owner.closed)


def test_no_more_than_so_many_clients(owner, monkeypatch):
    monkeypatch.setattr(ipc, "MAX_CONNECTIONS", 3)
    held = [Client(owner) for _ in range(3)]
    beyond = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    beyond.connect(abstract(owner.name))
    beyond.setblocking(False)

    def ended() -> bool:
        try:
            return beyond.recv(10) == b""
        except BlockingIOError:
            return False

    owner.until(ended)
    for each in (*held, beyond):
        each.close()


def test_no_descriptor_left_is_no_endless_loop(owner, monkeypatch):
    """The listening socket stays ready while nothing can be accepted; the client is served when it can."""
    tries: list[float] = []
    accept = system.accept_local

    def none_left(listener):
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(system, "accept_local", none_left)
    client = Client(owner)
    assert client.error == 0
    assert len(tries) == 3
    assert tries[-1] - tries[0] > 1.5
    client.close()


def test_a_folder_that_was_swapped_for_a_link_is_not_followed(owner, client, tmp_path):
    """The folder belongs to the client, which may not have others removed by us."""
    (tmp_path / "precious").touch()
    folder = Path(client.control).parent
    moved = folder.rename(f"{folder}-moved")
    folder.symlink_to(tmp_path)
    client.close()
    owner.until(lambda: owner.closed)
    assert (tmp_path / "precious").exists()
    folder.unlink()
    ipc.remove(str(moved))
    assert not moved.exists()


def test_what_a_killed_agent_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(ipc, "SHM", str(tmp_path))
    for pid in (os.getpid(), 999_999_999):
        (tmp_path / f"qb-pcloud-{pid}-1-abc").mkdir()
        (tmp_path / f"qb-pcloud-{pid}-1-abc" / "qb-control-attrd").touch()
    (tmp_path / "qb-999999999-another").mkdir()
    ipc.remove_left()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "qb-999999999-another",
        f"qb-pcloud-{os.getpid()}-1-abc",
    ]
