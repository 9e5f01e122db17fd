"""One guest's session: requests and their replies, operations and their results, over one `channel`.

Owns: what is under way with this guest: replies awaited, operations running, recurring operations, registered resources.
Concurrency: one event loop; methods may be called concurrently for different operations.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable

from pcloud.environment.transport import Operation, OperationResult, OperationStatus, TransportError
from pcloud.transport import requests
from pcloud.transport.channel import Channel
from pcloud.wire import messages as m

MARGIN = 5.0
"""Seconds beyond an operation's own time-out after which we stop waiting for its result."""
REPLY_TIMEOUT = 30.0
"""Seconds in which a request must be replied to (the operation itself may take longer)."""
_NONCE = f"{os.getpid():x}{time.time_ns() & 0xFFFFFFFF:08x}"
_Key = tuple[str, str, int]


class _Recurring:
    """A recurring operation of ours in the guest."""

    __slots__ = ("first", "operation", "token")

    def __init__(self, operation: Operation, token: str, first: asyncio.Future[OperationResult]) -> None:
        self.operation = operation
        self.token = token
        self.first: asyncio.Future[OperationResult] | None = first


class RemoteConnection:
    """Implements `pcloud.environment.transport.Connection`."""

    __slots__ = (
        "__weakref__",
        "_channel",
        "_error",
        "_frame_since",
        "_heard",
        "_number",
        "_on_closed",
        "_on_lost",
        "_on_result",
        "_operations",
        "_poked",
        "_recurring",
        "_registered",
        "_replies",
        "_request",
        "version",
    )

    def __init__(
        self,
        channel: Channel,
        number: int,
        *,
        on_result: Callable[[OperationResult], None],
        on_lost: Callable[[TransportError], None],
        on_closed: Callable[[RemoteConnection], None],
    ) -> None:
        self._channel = channel
        self._number = number
        self._on_result = on_result
        self._on_lost: Callable[[TransportError], None] | None = on_lost
        self._on_closed = on_closed
        self._request = 0
        self._replies: dict[int, asyncio.Future[m.Element]] | None = None
        self._operations: dict[str, asyncio.Future[OperationResult]] | None = None
        self._recurring: dict[_Key, _Recurring] = {}
        self._registered: dict[str, tuple[str, str, str]] = {}
        self._error: TransportError | None = None
        self._heard = asyncio.get_running_loop().time()
        self._poked = 0.0
        self._frame_since = 0.0
        self.version = ""
        """The protocol version that the guest's agent told."""
        channel.on_payload = self._on_payload
        channel.on_end = self._ended
        channel.start()

    # --- the interface

    async def execute(self, operation: Operation) -> OperationResult:
        """Run an operation; see `Connection.execute`. Errors: TransportError (codes of the connection, REFUSED_OPERATION,
        NO_REPLY)."""
        self._check_open()
        loop = asyncio.get_running_loop()
        token = f"pcloud:{_NONCE}:{self._number}:{self._request}"
        interval = round(operation.interval * 1000)
        future: asyncio.Future[OperationResult] = loop.create_future()
        key = (operation.resource, operation.action, interval)
        if interval:
            before = self._recurring.get(key)
            if before is not None and before.first is not None and not before.first.done():
                before.first.set_result(requests.without_answer(operation, OperationStatus.CANCELLED, 0))
            self._recurring[key] = _Recurring(operation, token, future)
        else:
            if self._operations is None:
                self._operations = {}
            self._operations[token] = future
        started = time.time()
        deadline = loop.time() + operation.start_delay + operation.timeout + MARGIN
        try:
            call_id = await self._submit(operation, interval, token)
            async with asyncio.timeout_at(deadline):
                # Shielded: the result may be awaited by more than this caller, and the guest goes on without us.
                return await asyncio.shield(future)
        except TimeoutError:
            return requests.without_answer(operation, OperationStatus.TIMEOUT, 1, started=started, call_id=call_id)
        except TransportError:
            if self._recurring.get(key) is not None and self._recurring[key].token == token:
                del self._recurring[key]
            raise
        finally:
            if self._operations is not None:
                self._operations.pop(token, None)
                if not self._operations:
                    self._operations = None
            if future.done() and not future.cancelled():
                future.exception()  # seen: the caller may have been cancelled before
            self._set_quick()

    async def cancel(self, resource: str, action: str, interval: float) -> None:
        """Stop repeating a recurring operation; unknown ones are ignored."""
        milliseconds = round(interval * 1000)
        known = self._recurring.pop((resource, action, milliseconds), None)
        if known is not None and known.first is not None and not known.first.done():
            known.first.set_result(requests.without_answer(known.operation, OperationStatus.CANCELLED, 0))
        data = m.resource(resource, rsc_action=action, rsc_interval=milliseconds)
        await self._ask(m.command(m.OP_CANCEL, data))

    async def forget(self, resource: str) -> None:
        """Remove the resource from the guest's executor."""
        self._registered.pop(resource, None)
        for key in [key for key in self._recurring if key[0] == resource]:
            known = self._recurring.pop(key)
            if known.first is not None and not known.first.done():
                known.first.set_result(requests.without_answer(known.operation, OperationStatus.CANCELLED, 0))
        await self._ask(m.command(m.OP_RSC_UNREG, m.resource(resource)))

    async def check(self, *, timeout: float) -> None:
        """Make the guest prove that it answers; TransportError (NO_ANSWER) when it does not in time."""
        try:
            async with asyncio.timeout(timeout):
                await self._send(m.command(m.OP_POKE))
        except TimeoutError as error:
            raise TransportError("NO_ANSWER", f"the guest's agent did not answer within {timeout:g} s") from error

    async def close(self) -> None:
        """Close in order; what runs in the guest goes on."""
        self._on_lost = None
        self._channel.close()
        self._fail(TransportError("CLOSED", "the connection was closed"))

    # --- signing on

    async def sign_on(self, name: str, *, provider: bool) -> None:
        """Tell who we are and learn who answers; TransportError (PROTOCOL) when that fails."""
        reply = await self._ask(m.register(name, provider=provider))
        if reply.get("lrmd_op") != m.OP_REGISTER or not reply.get("lrmd_clientid") or reply.number("lrmd_rc", -1) != 0:
            error = TransportError(
                "PROTOCOL", f"the guest's agent refused the sign-on (rc {reply.number('lrmd_rc', -1)})"
            )
            self._on_lost = None
            self._channel.close()
            self._fail(error)
            raise error
        self.version = reply.get("lrmd_protocol_version", "1.0")

    # --- requests

    def _check_open(self) -> None:
        if self._error is not None:
            raise TransportError(self._error.code, str(self._error))

    def _send(self, request: m.Element) -> asyncio.Future[m.Element]:
        """Send a request and return the future of its reply."""
        self._check_open()
        self._request = self._request % 0x7FFFFFFF + 1
        number = self._request
        request.set("lrmd_remote_msg_id", number).set("lrmd_remote_msg_type", "request")
        future: asyncio.Future[m.Element] = asyncio.get_running_loop().create_future()
        if self._replies is None:
            self._replies = {}
        self._replies[number] = future
        self._channel.quick = True
        self._channel.send(request.to_bytes())
        return future

    async def _ask(self, request: m.Element) -> m.Element:
        """Send a request and return its reply. One that does not come in time ends the connection (NO_REPLY)."""
        return await self._await_reply(self._send(request), REPLY_TIMEOUT)

    async def _await_reply(self, future: asyncio.Future[m.Element], timeout: float) -> m.Element:
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            lost = TransportError("NO_REPLY", f"a request was not replied to within {timeout:g} s")
            self._channel.end(lost)
            raise lost from error

    async def _submit(self, operation: Operation, interval: int, token: str) -> int:
        """Send the operation, registering its resource where needed; return its call id."""
        what = (operation.resource_class, operation.provider, operation.type)
        for again in (False, True):
            registration: asyncio.Future[m.Element] | None = None
            if self._registered.get(operation.resource) != what:
                registration = self._send(requests.registration(operation))
            reply_future = self._send(requests.execution(operation, interval, token))
            try:
                # Both are under way together: one round trip, and they are handled in this order.
                if registration is not None:
                    await self._await_reply(registration, REPLY_TIMEOUT)
                    self._registered[operation.resource] = what
            finally:
                if registration is not None and registration.cancelled():
                    reply_future.cancel()
            rc = (await self._await_reply(reply_future, REPLY_TIMEOUT)).number("lrmd_rc", -errno.EPROTO)
            if rc >= 0:
                return rc
            self._registered.pop(operation.resource, None)
            if rc != -errno.ENODEV or again:
                break
        name = errno.errorcode.get(-rc, str(rc))
        refused = f"{operation.action} of {operation.resource}"
        raise TransportError("REFUSED_OPERATION", f"the guest's agent refused {refused}: {name}")

    # --- what comes in

    def _on_payload(self, payload: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        if self._poked and b'lrmd_rsc_poke"' in payload and payload.startswith(b"<lrmd_notify"):
            self._poked = 0.0
            return  # by far the most frequent message: not worth a parser
        try:
            message = m.parse(payload)
        except m.MessageError as error:
            self._channel.end(TransportError("BAD_XML", str(error)))
            return
        kind = message.get("lrmd_remote_msg_type")
        if message.tag == m.REPLY or kind == "reply":
            self._on_reply(message)
        elif message.tag == m.NOTIFY and message.get("lrmd_op") == m.OP_EXEC:
            self._on_notify(message)
        elif message.tag == m.PROXY:
            self._on_proxy(message)
        elif message.tag != m.NOTIFY:
            self._channel.end(TransportError("PROTOCOL", f"a message <{message.tag[:40]}> was not expected"))

    def _on_reply(self, reply: m.Element) -> None:
        number = reply.number("lrmd_remote_msg_id", -1)
        if number == 0:
            self._poked = 0.0
            return
        future = self._replies.pop(number, None) if self._replies else None
        if not self._replies:
            self._replies = None
        self._set_quick()
        if future is not None and not future.done():
            future.set_result(reply)

    def _on_notify(self, notice: m.Element) -> None:
        result = requests.result_of(notice)
        if not notice.number("lrmd_rsc_interval"):
            future = self._operations.get(notice.get("lrmd_rsc_userdata_str")) if self._operations else None
            if future is not None and not future.done():
                future.set_result(result)
            return
        key = (result.resource, result.action, notice.number("lrmd_rsc_interval"))
        known = self._recurring.get(key)
        if known is None or notice.get("lrmd_rsc_userdata_str") != known.token:
            return  # another client's, or cancelled and on its way while we asked for it anew
        if known.first is not None:
            first, known.first = known.first, None
            if not first.done():
                first.set_result(requests.as_first(result))
            if result.status is OperationStatus.CANCELLED:
                del self._recurring[key]
            return
        if result.status is OperationStatus.CANCELLED:
            del self._recurring[
                key
            ]  # it stopped repeating, because the resource was stopped, say: no change of the service
            return
        self._on_result(result)

    def _on_proxy(self, message: m.Element) -> None:
        """We relay no cluster IPC: refuse sessions, and let an agent that wants to end do so at once."""
        answer = {"new": "destroy", "request": "destroy", "shutdown_req": "shutdown_nack"}.get(
            message.get("lrmd_ipc_op")
        )
        if answer is not None:
            request = m.command(m.OP_IPC_FWD).set("lrmd_ipc_op", answer)
            request.set("lrmd_ipc_session", message.get("lrmd_ipc_session"))
            self._send(request)

    # --- health and end

    def check_health(self, now: float, interval: float, timeout: float) -> None:
        """Poke when silent for `interval`; end the connection when a poke or a begun frame is older than `timeout`."""
        if self._poked and now - self._poked > timeout:
            self._channel.end(
                TransportError("NO_ANSWER", f"the guest's agent was silent for {now - self._heard:.0f} s")
            )
            return
        if not self._channel.incomplete:
            self._frame_since = 0.0
        elif not self._frame_since:
            self._frame_since = now
        elif now - self._frame_since > REPLY_TIMEOUT:
            self._channel.end(TransportError("TOO_SLOW", "the guest's agent did not finish a message"))
            return
        if not self._poked and now - self._heard >= interval * 0.75 and self._channel.open:
            self._poked = now
            try:
                self._channel.send(requests.POKE)
            except TransportError:
                return  # it ended in this moment; `on_lost` tells

    def _set_quick(self) -> None:
        self._channel.quick = bool(self._replies or self._operations)

    def _ended(self, error: TransportError) -> None:
        on_lost, self._on_lost = self._on_lost, None
        self._fail(error)
        if on_lost is not None:
            on_lost(error)

    def _fail(self, error: TransportError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._on_closed(self)
        waiting: list[asyncio.Future[m.Element] | asyncio.Future[OperationResult]] = []
        waiting += (self._replies or {}).values()
        waiting += (self._operations or {}).values()
        waiting += [known.first for known in self._recurring.values() if known.first is not None]
        self._replies = self._operations = None
        self._recurring = {}
        for future in waiting:
            if not future.done():
                future.set_exception(TransportError(error.code, str(error)))
                future.exception()  # seen: nobody may be waiting any more
