"""One HTTP connection to the daemon: sends requests, bounds and decodes answers, turns every failure into our errors.

Owns: time-outs, the size limit of answers, the reading of refusals. Concurrency: synchronous; one `Connection` may be
used by several threads (httpx2's pool is thread-safe). A request is never repeated by itself: the caller knows whether
it may be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, TypeVar, overload

import httpx2
import msgspec

from pcloud.client.errors import BadReply, BadSettings, Refused, Unreachable
from pcloud.client.records import Errors
from pcloud.client.settings import Settings
from pcloud.client.trust import Trust
from pcloud.model.errors import PcloudError, Problem

MAX_REPLY = 64 * 1024 * 1024
"""Bytes; an answer beyond is refused before it fills the memory."""
CONNECT_TIMEOUT = 5.0
_PART = 1024 * 1024
_NUMBER = re.compile(r"\[Errno -?\d+\] ")
REPLY_TIMEOUT = 30.0
"""Seconds of silence within one answer."""

T = TypeVar("T")
Query = Mapping[str, str | int | bool | None]


class Connection:
    """See the module. `settings` says where to and with which token."""

    def __init__(self, settings: Settings, *, timeout: float = REPLY_TIMEOUT) -> None:
        self.settings = settings
        self._trust = Trust(settings.ca) if settings.url.startswith("https:") else None
        headers = {"Accept": "application/json", "User-Agent": "pcloud"}
        if settings.token:
            headers["Authorization"] = f"Bearer {settings.token}"
        self._http = httpx2.Client(
            base_url=settings.url,
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout)),
            # A proxy from the environment could not reach this machine's loopback address.
            trust_env=not settings.loopback,
            # Reading the system's certificates takes longer than a whole request on loopback.
            verify=self._trust.context if self._trust is not None else False,
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connection; a request of another thread ends with Unreachable."""
        self._http.close()

    @overload
    def call(
        self,
        method: str,
        path: str,
        reply: type[T],
        *,
        query: Query | None = ...,
        body: object = ...,
        content: bytes | None = ...,
        content_type: str = ...,
        timeout: float | None = ...,
    ) -> T: ...

    @overload
    def call(
        self,
        method: str,
        path: str,
        reply: None,
        *,
        query: Query | None = ...,
        body: object = ...,
        content: bytes | None = ...,
        content_type: str = ...,
        timeout: float | None = ...,
    ) -> bytes: ...

    def call(
        self,
        method: str,
        path: str,
        reply: type[T] | None,
        *,
        query: Query | None = None,
        body: object = None,
        content: bytes | None = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> T | bytes:
        """Send a request and decode its answer as `reply`; None returns the bytes. `body` is sent as JSON, else `content`.

        Refused when the daemon says no; Unreachable, BadReply as their names say. `timeout` is in seconds and replaces
        the default silence limit.
        """
        if body is not None:
            content = msgspec.json.encode(body)
        headers = {"Content-Type": content_type} if content is not None else {}
        limits = self._http.timeout if timeout is None else httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT)
        request = self._http.build_request(
            method, path, params=_params(query), content=content, headers=headers, timeout=limits
        )
        raw = self._sent(request)
        return raw if reply is None else self._decoded(raw, reply, f"{method} {path}")

    def upload(self, path: str, reply: type[T], *, query: Query | None, file: BinaryIO, size: int, timeout: float) -> T:
        """Send a file of `size` bytes by PUT without holding it in memory; errors as `call`. `timeout` is the silence, in
        seconds, after which a part that is not taken or an answer that does not come ends it."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        limits = httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT)
        parts = iter(lambda: file.read(_PART), b"")
        request = self._http.build_request(
            "PUT", path, params=_params(query), content=parts, headers=headers, timeout=limits
        )
        return self._decoded(self._sent(request), reply, f"PUT {path}")

    def _sent(self, request: httpx2.Request) -> bytes:
        """Send a request and return its answer; Refused when the daemon says no."""
        with self._translated():
            response = self._http.send(request, stream=True)
            try:
                raw = _read(response)
            finally:
                response.close()
        if response.status_code >= 300:
            raise self._refusal(response, raw)
        return raw

    def _decoded(self, raw: bytes, reply: type[T], what: str) -> T:
        try:
            return msgspec.json.decode(raw, type=reply)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._strange(f"its answer to {what} can not be read: {error}") from None

    @contextmanager
    def stream(
        self, path: str, *, query: Query | None, silence: float, last_id: str = ""
    ) -> Iterator[httpx2.EventSource]:
        """Open a stream of server-sent events. More than `silence` seconds without a byte (the daemon sends heartbeats)
        end it with Unreachable: a half-open connection does not hang for ever."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        timeout = httpx2.Timeout(silence, connect=CONNECT_TIMEOUT)
        with (
            self._translated(),
            self._http.stream("GET", path, params=_params(query), headers=headers, timeout=timeout) as response,
        ):
            if response.status_code != 200:
                raise self._refusal(response, _read(response))
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._strange(f"{path} is no stream of events")
            yield httpx2.EventSource(response)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the HTTP library's errors into ours."""
        if self._trust is not None:
            self._trust.renew()
        url = self.settings.url
        start_it = "start it with `pcloud up --detach`, or say where it is with --url or $PCLOUD_URL"
        try:
            yield
        except httpx2.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Unreachable.of(
                    "NOT_TRUSTED",
                    f"what answers at {url} shows a certificate that is not trusted ({_plain(error)})",
                    hint="a daemon makes its own in $PCLOUD_HOME/tls/certificate.pem: give $PCLOUD_CA a copy of it",
                ) from None
            raise Unreachable.of(
                "UNREACHABLE", f"no daemon answers at {url} ({_plain(error)})", hint=start_it
            ) from None
        except httpx2.ConnectTimeout:
            raise Unreachable.of("UNREACHABLE", f"no daemon answers at {url} (time-out)", hint=start_it) from None
        except httpx2.TimeoutException:
            raise Unreachable.of(
                "SILENT",
                f"the daemon at {url} fell silent in the middle of an answer",
                hint="see `pcloud doctor`, or its log",
            ) from None
        except (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError) as error:
            raise Unreachable.of(
                "CONNECTION_LOST",
                f"the connection to {url} broke ({_plain(error)})",
                hint="try again; `pcloud up` starts the daemon",
            ) from None
        except (httpx2.ProtocolError, httpx2.DecodingError, httpx2.SSEError) as error:
            if "disconnected" in str(error) or "peer closed" in str(error) or "incomplete" in str(error):
                raise Unreachable.of(
                    "CONNECTION_LOST",
                    f"the connection to {url} broke ({_plain(error)})",
                    hint="try again; `pcloud up` starts the daemon",
                ) from None
            raise self._strange(_plain(error)) from None
        except httpx2.InvalidURL as error:
            raise BadSettings.of("BAD_URL", f"{url!r} can not be used as an address: {error}") from None
        except httpx2.TransportError as error:
            raise Unreachable.of(
                "UNREACHABLE", f"no daemon answers at {url} ({_plain(error)})", hint=start_it
            ) from None

    def _refusal(self, response: httpx2.Response, raw: bytes) -> PcloudError:
        """Make the error that an answer with a status of 300 or more stands for."""
        try:
            records = msgspec.json.decode(raw, type=Errors).errors
        except (msgspec.DecodeError, UnicodeDecodeError):
            records = ()
        problems = [Problem(**msgspec.structs.asdict(record)) for record in records]
        status = response.status_code
        if status == 401:
            source = self.settings.token_source
            message = (
                f"the daemon at {self.settings.url} does not accept the token from {source}"
                if source
                else "a token is needed"
            )
            hint = (
                f"the daemon writes one to $PCLOUD_HOME/token (here {self.settings.home}/token), which only its owner "
                "may read; name it with --token-file, or set $PCLOUD_TOKEN"
            )
            return Refused(status, Problem(code="UNAUTHORIZED", message=message, hint=hint))
        if problems:
            return Refused(status, *problems)
        return self._strange(f"it answered HTTP {status} without a reason")

    def _strange(self, why: str) -> PcloudError:
        return BadReply.of(
            "BAD_REPLY",
            f"what answers at {self.settings.url} is not a pcloud daemon, or a broken one: {why}",
            hint="check --url and $PCLOUD_URL; `pcloud version` compares versions",
        )


def _params(query: Query | None) -> dict[str, str]:
    """Drop what is not set; booleans in the API's spelling."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (query or {}).items()
        if value is not None and value != ""
    }


def _read(response: httpx2.Response) -> bytes:
    """Read a body up to MAX_REPLY bytes."""
    parts = []
    size = 0
    for part in response.iter_bytes():
        size += len(part)
        if size > MAX_REPLY:
            raise BadReply.of("REPLY_TOO_LARGE", f"the answer is larger than {MAX_REPLY} bytes; the rest was not read")
        parts.append(part)
    return b"".join(parts)


def _plain(error: Exception) -> str:
    """The library's message in one bounded line, without the number of an error that it says in words, too."""
    return " ".join(_NUMBER.sub("", str(error)).split())[:200] or type(error).__name__
