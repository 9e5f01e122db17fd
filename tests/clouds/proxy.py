"""An HTTP proxy in front of one of the peer's APIs, which counts requests and answers some of them with what goes wrong.

The answers come from the real API, but for those a `Fault` was set for: it may swallow the request, or let it be carried
out and lose the answer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade", "expect"}


@dataclass
class Fault:
    """What happens to requests that match."""

    method: str
    path: str
    """Regular expression, of the path and query."""
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "made by the test"
    carried_out: bool = False
    """Whether the request reaches the real API all the same, and only its answer is lost."""
    times: int = 1
    hits: int = 0


class Proxy:
    """What was asked, and what shall go wrong."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.url = ""

    def fail(self, method: str, path: str, **changes: object) -> Fault:
        """Set a fault."""
        fault = Fault(method, path, **changes)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def seen(self, method: str, path: str) -> int:
        """Return how many requests matched since the last `forget`."""
        with self.lock:
            return sum(1 for one, what in self.requests if one == method and re.search(path, what))

    def forget(self) -> None:
        """Count afresh, and let nothing go wrong any more."""
        with self.lock:
            self.requests.clear()
            self.faults.clear()

    def asked(self, method: str, path: str) -> Fault | None:
        """Note a request and return what shall go wrong with it."""
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.method == method and fault.hits < fault.times and re.search(fault.path, path):
                    fault.hits += 1
                    return fault
        return None


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                whole = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def handle_any(self) -> None:
            body = self._body()
            fault = proxy.asked(self.command, self.path)
            if fault is None or fault.carried_out:
                status, headers, answer = self._forward(body)
            if fault is not None:
                kind = {413: "overLimit", 429: "overLimit"}.get(fault.status, "fault")
                answer = json.dumps({kind: {"code": fault.status, "message": fault.message}}).encode()
                status, headers = fault.status, [("Content-Type", "application/json"), *fault.headers.items()]
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            # Host stays ours: links in the answers shall lead back here.
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            connection = http.client.HTTPConnection(proxy.target.netloc, timeout=120)
            try:
                connection.request(self.command, self.path, body=body or None, headers=headers)
                answer = connection.getresponse()
                kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
                return answer.status, kept, answer.read()
            except OSError as error:
                return 502, [], str(error).encode()
            finally:
                connection.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any  # noqa: N815

    return Handler


@contextlib.contextmanager
def in_front_of(target: str) -> Iterator[Proxy]:
    """Run a proxy in front of an API."""
    proxy = Proxy(target)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
