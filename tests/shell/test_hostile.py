"""What answers may be anything: garbage, half an answer, silence, floods. Every one must end in a clean error, soon."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pcloud.client.api import Client
from pcloud.client.errors import BadReply, Refused, Unreachable
from pcloud.client.settings import Settings
from pcloud.model.errors import PcloudError
from tests.shell.conftest import Run

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Answer = bytes | Callable[[socket.socket], None]


def framed(body: bytes, head: bytes = OK) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def hold(connection: socket.socket) -> None:
    """Accept, read, and never answer, until the other side goes away."""
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass


def flood(connection: socket.socket) -> None:
    """An answer without end."""
    with contextlib.suppress(OSError):
        connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b"[" * 0x100000 + b"\r\n"
        while True:
            connection.sendall(chunk)


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    open_connections: list[socket.socket] = []

    def handle(connection: socket.socket) -> None:
        with connection:
            if callable(answer):
                answer(connection)
                return
            with contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            open_connections.append(connection)
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in open_connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join(300)
        assert not thread.is_alive()


CASES: dict[str, tuple[Answer, type[PcloudError]]] = {
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", Unreachable),
    "binary": (bytes(range(256)) * 16, BadReply),
    "html": (framed(b"<html>It works!</html>"), BadReply),
    "wrong shape": (framed(b'{"deployables": 1}'), BadReply),
    "not utf-8": (framed(b'[{"name": "\xff\xfe"}]'), BadReply),
    "empty body": (framed(b""), BadReply),
    "deep": (framed(b"[" * 100_000), BadReply),
    "nothing": (b"", Unreachable),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Le", Unreachable),
    "half a body": (OK + b"Content-Length: 1000\r\n\r\n[", Unreachable),
    "silence": (hold, Unreachable),
    "flood": (flood, BadReply),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", BadReply),
    "bare 500": (framed(b"oops", b"HTTP/1.1 500 Internal Server Error\r\n"), BadReply),
    "500 with html": (framed(b"<h1>Bad gateway</h1>", b"HTTP/1.1 502 Bad Gateway\r\n"), BadReply),
    "errors of a wrong shape": (framed(b'{"errors": "no"}', b"HTTP/1.1 422 No\r\n"), BadReply),
    "no errors": (framed(b'{"errors": []}', b"HTTP/1.1 422 No\r\n"), BadReply),
    "refusal": (framed(b'{"errors": [{"code": "X", "message": "no"}]}', b"HTTP/1.1 409 No\r\n"), Refused),
}


@pytest.mark.parametrize("name", CASES)
def test_every_answer_ends_in_one_of_our_errors(name: str) -> None:
    answer, expected = CASES[name]
    patience = 1.0 if name == "silence" else 60.0
    with answering(answer) as url, Client(Settings(url=url, token="t"), timeout=patience) as client:
        with pytest.raises(PcloudError) as caught:
            client.deployables()
        assert isinstance(caught.value, expected), caught.value
        assert caught.value.problems
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["ssh", "html", "bare 500", "half a body", "deep"])
def test_the_command_line_says_so_without_a_traceback(pcloud: Run, name: str) -> None:
    answer, expected = CASES[name]
    with answering(answer) as url:
        ended = pcloud("get", PCLOUD_URL=url)
    assert ended.returncode == (5 if expected is Unreachable else 1)
    assert ended.stderr.startswith("pcloud: ")
    assert "Traceback" not in ended.stderr


def test_error_texts_can_not_steer_the_terminal(pcloud: Run) -> None:
    body = b'{"errors": [{"code": "X", "message": "a\\u001b]0;evil\\u0007b"}]}'
    with answering(framed(body, b"HTTP/1.1 409 No\r\n")) as url:
        ended = pcloud("get", PCLOUD_URL=url)
    assert ended.returncode == 4
    assert "\x1b" not in ended.stderr
    assert "\x07" not in ended.stderr


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (STREAM + b"id: 1\ndata: {nonsense\n\n", BadReply),
        (framed(b"[]"), BadReply),
        (framed(b'{"errors": [{"code": "X", "message": "no"}]}', b"HTTP/1.1 403 No\r\n"), Refused),
        (STREAM + b"data: " + b"x" * 20_000_000, BadReply),
    ],
)
def test_streams(answer: bytes, expected: type[PcloudError]) -> None:
    with answering(answer) as url, Client(Settings(url=url, token="t"), timeout=60.0) as client:
        with pytest.raises(PcloudError) as caught:
            list(client.follow(after="0"))
        assert isinstance(caught.value, expected), caught.value


def test_a_stream_that_falls_silent_is_taken_up_again_where_it_was() -> None:
    """The first connection delivers one event and then hangs half-open; the second must ask for what comes after it."""
    requests: list[bytes] = []
    event = b'{"id": "%d", "type": "org.pacemaker-cloud.resource.state", "data": {}}'

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it may lose its patience before it is answered: then it asks again
            request = connection.recv(65536)
            if not request:
                return
            requests.append(request)
            number = int(request.partition(b"after=")[2].split()[0]) + 1
            connection.sendall(STREAM + b"id: %d\ndata: " % number + event % number + b"\n\n")
        hold(connection)

    lost: list[PcloudError] = []
    back: list[int] = []
    stop = threading.Event()
    with answering(answer) as url, Client(Settings(url=url, token="t")) as client:
        seen = []
        for found in client.follow(
            after="0", stop=stop, silence=1.0, on_lost=lost.append, on_back=lambda: back.append(1), persistent=True
        ):
            seen.append(found.id)
            if len(seen) == 3:
                stop.set()
    assert seen == ["1", "2", "3"]
    assert len(lost) >= 2
    assert len(back) >= 2
    assert b"after=0" in requests[0]
    assert b"after=2" in requests[-1]
    assert b"last-event-id: 2" in requests[-1].lower()


def test_the_named_events_of_an_ending_daemon_are_no_events() -> None:
    answers = [
        STREAM + b'id: 1\ndata: {"id": "1"}\n\nevent: end\ndata: {}\n\n',
        STREAM + b'id: 2\ndata: {"id": "2"}\n\nevent: slow\ndata: {"cursor": 2}\n\n',
        STREAM + b'id: 3\ndata: {"id": "3"}\n\n',
    ]

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answers.pop(0))

    stop = threading.Event()
    with answering(answer) as url, Client(Settings(url=url, token="t")) as client:
        seen = []
        for found in client.follow(after="0", stop=stop):
            seen.append(found.id)
            if len(seen) == 3:
                stop.set()
    assert seen == ["1", "2", "3"]
