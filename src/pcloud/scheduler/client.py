"""The client of the scheduler's worker process.

Owns the process, the requests that wait for it, and what is known to kill it. Concurrency: one event loop; any number
of callers. Requests are answered in the order in which they came, a few at a time are with the worker, and the
first of those is the one it works on: when the worker dies or hangs, that one is to blame. It gets a second try in a
new process; the requests behind it are sent again and never notice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import socket
import sys
from collections import OrderedDict, deque
from importlib import util
from typing import Any

from pcloud.environment.scheduler import SchedulerCrash, SchedulerError
from pcloud.scheduler.worker import GRAPH, LENGTH, MAX_INPUT, READY

log = logging.getLogger(__name__)

RETIRED = "was retired"

_DATE = re.compile(rb'\sexecution-date="[^"]*"')


class _Request:
    """One caller's input, from the moment it asks until it has its answer."""

    __slots__ = ("answer", "cib", "kills")

    def __init__(self, cib: bytes, answer: asyncio.Future[bytes]) -> None:
        self.cib = cib
        self.answer = answer
        self.kills = 0


def digest(cib: bytes) -> bytes:
    """Identify an input, whatever its `execution-date`: the same state of affairs asked about later is the same."""
    return hashlib.blake2b(_DATE.sub(b"", cib, count=1), digest_size=16).digest()


def binding_available() -> bool:
    """Tell whether the compiled binding stands beside this module."""
    return util.find_spec("pcloud.scheduler._pacemaker") is not None


class WorkerScheduler:
    """Pacemaker's scheduler library in a process of its own (a `pcloud.environment.scheduler.Scheduler`).

    The process starts with the first request and again after it died.
    """

    name = "library"

    def __init__(
        self,
        *,
        timeout: float = 30.0,
        start_timeout: float = 30.0,
        window: int = 8,
        remembered: int = 1024,
        recycle_after: int = 20_000,
        sanitized: bool = False,
    ) -> None:
        """`timeout`: seconds the worker may take for one input before it is taken for hung and killed. `start_timeout`:
        seconds until a new process must be ready. `window`: requests with the worker at once. `remembered`: how many
        killing inputs are kept in mind. `recycle_after`: decisions after which a process is replaced, which bounds
        what the library may leak (3.0.0: 3 KB a decision). `sanitized`: the inputs had their secrets removed, as those
        that clusters attach to reports; digests in their history are then compared without the secrets."""
        self._sanitized = sanitized
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._window = window
        self._recycle_after = recycle_after
        self._remembered = remembered
        self._killers: OrderedDict[bytes, None] = OrderedDict()
        self._waiting: deque[_Request] = deque()
        self._worker: _Worker | None = None
        self._runner: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closed = False
        self.version = ""
        """Version of Pacemaker's library; empty until the worker was ready once."""
        self.restarts = 0
        """How often a worker died or was killed."""

    @property
    def pid(self) -> int | None:
        """Process id of the worker that runs now."""
        return self._worker.pid if self._worker is not None and self._worker.alive else None

    async def schedule(self, cib: bytes) -> bytes:
        """Return the transition graph for a CIB; see `pcloud.environment.scheduler.Scheduler`."""
        if self._closed:
            raise SchedulerError("the scheduler is closed")
        if len(cib) > MAX_INPUT:
            raise SchedulerError(f"a CIB of {len(cib)} bytes is over the limit of {MAX_INPUT}")
        if self._killers and (key := digest(cib)) in self._killers:
            self._killers.move_to_end(key)
            raise SchedulerCrash("this input killed the scheduler twice before and is set aside")
        request = _Request(cib, asyncio.get_running_loop().create_future())
        worker = self._worker
        if worker is not None and not self._waiting and self._has_room(worker):
            worker.send(request)
        else:
            self._waiting.append(request)
            self._wake.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.get_running_loop().create_task(self._run(), name="scheduler-worker")
            self._runner.add_done_callback(self._ended)
        return await request.answer

    def pardon(self, cib: bytes) -> None:
        """Let an input be tried again that killed the worker twice."""
        self._killers.pop(digest(cib), None)

    async def close(self) -> None:
        """End the worker; whoever still waits gets a SchedulerError."""
        self._closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
            self._runner = None
        self._fail_all(SchedulerError("the scheduler is closed"))

    # --- the one task that owns the process

    async def _run(self) -> None:
        """Keep a worker for as long as there are requests, and then for as long as it lives."""
        failed_starts = 0
        while not self._closed:
            try:
                worker = await _Worker.start(self)
            except (OSError, TimeoutError) as error:
                failed_starts += 1
                log.warning("the scheduler's worker does not start: %s", error)
                if failed_starts >= 3:
                    self._fail_all(SchedulerError(f"the scheduler's worker does not start: {error}"))
                    return
                await asyncio.sleep(0.05 * 2**failed_starts)
                continue
            failed_starts = 0
            self._worker, self.version = worker, worker.version
            try:
                reason = await self._feed(worker)
            finally:
                self._worker = None
                left = list(worker.pending)
                worker.pending.clear()
                self._waiting.extendleft(reversed(left))  # before anything that may be cancelled: nobody is forgotten
                await worker.stop()
            if reason != RETIRED:
                self.restarts += 1
            if left:
                self._blame(left[0], reason)
            if not self._waiting:
                return  # the next request starts the next worker

    async def _feed(self, worker: _Worker) -> str:
        """Send what waits until the worker is gone; return what became of it."""
        while True:
            while self._waiting and self._has_room(worker):
                request = self._waiting.popleft()
                if not request.answer.done():
                    worker.send(request)
            if worker.sent >= self._recycle_after and not worker.pending:
                return RETIRED
            self._wake.clear()
            wake = asyncio.ensure_future(self._wake.wait())
            either: set[asyncio.Future[Any]] = {wake, worker.gone}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                wake.cancel()
            if worker.gone.done():
                return worker.gone.result()

    def _has_room(self, worker: _Worker) -> bool:
        return worker.ready and len(worker.pending) < self._window and worker.sent < self._recycle_after

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let nobody wait for a task that is no more."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the scheduler's client failed", exc_info=error)
            self._fail_all(SchedulerError(f"the scheduler's client failed: {error!r}"))

    def _blame(self, request: _Request, reason: str) -> None:
        """Note that the worker ended while it worked on this request."""
        request.kills += 1
        log.warning("the scheduler's worker ended on an input of %d bytes: it %s", len(request.cib), reason)
        if request.kills < 2:
            return
        self._waiting.remove(request)
        self._killers[digest(request.cib)] = None
        while len(self._killers) > self._remembered:
            self._killers.popitem(last=False)
        if not request.answer.done():
            request.answer.set_exception(SchedulerCrash(f"the scheduler {reason}, twice, on this input"))

    def answered(self) -> None:
        """Called by the worker's protocol after each answer: there is room for another request."""
        worker = self._worker
        if self._waiting or (worker is not None and worker.sent >= self._recycle_after):
            self._wake.set()

    def _fail_all(self, error: SchedulerError) -> None:
        while self._waiting:
            request = self._waiting.popleft()
            if not request.answer.done():
                request.answer.set_exception(error)


class _Worker(asyncio.BufferedProtocol):
    """One run of the process: its socket, the requests that are with it, and when the oldest began."""

    def __init__(self, owner: WorkerScheduler) -> None:
        loop = asyncio.get_running_loop()
        self._owner = owner
        self._loop = loop
        self._buffer = memoryview(bytearray(64 * 1024))
        self._received = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._begun = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._hello: asyncio.Future[str] = loop.create_future()
        self.pending: deque[_Request] = deque()
        self.gone: asyncio.Future[str] = loop.create_future()
        self.ready = False
        self.sent = 0
        """Requests it was ever given."""
        self.version = ""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        return not self.gone.done()

    @classmethod
    async def start(cls, owner: WorkerScheduler) -> _Worker:
        """Start the process and wait until it is ready; OSError or TimeoutError when it does not come up."""
        worker = cls(owner)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                worker._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "pcloud.scheduler.worker", str(theirs.fileno()), str(os.getpid()),
                    *(["sanitized"] if owner._sanitized else []),
                    stdin=asyncio.subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment(),
                )  # fmt: skip
            ours.setblocking(False)
            transport, _ = await worker._loop.create_unix_connection(lambda: worker, sock=ours)
        except BaseException:  # cancelled, too: no process and no socket may stay behind
            ours.close()
            await worker.stop()
            raise
        worker._transport = transport
        try:
            async with asyncio.timeout(owner._start_timeout):
                worker.version = await worker._hello
        except BaseException:  # as above
            await worker.stop()
            raise
        worker.ready = True
        return worker

    def send(self, request: _Request) -> None:
        """Hand a request to the process."""
        if not self.pending:
            self._begun = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_later(self._owner._timeout, self._check)
        self.pending.append(request)
        self.sent += 1
        if self._transport is not None:
            self._transport.writelines((LENGTH.pack(len(request.cib)), request.cib))

    def _check(self) -> None:
        """See whether the oldest request is overdue. A timer is armed once in a while and not for each request, which
        would cost more than the rest of the client does."""
        self._watch = None
        if not self.pending:
            return
        left = self._begun + self._owner._timeout - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._check)
        elif not self.gone.done():
            self.gone.set_result(f"took longer than {self._owner._timeout:g} s")

    async def stop(self) -> None:
        """Kill the process and wait until it is gone; being cancelled meanwhile only counts afterwards. A killed process
        does not take long, and one that nobody waits for leaves a child and its transport behind."""
        self.ready = False
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._transport is not None:
            self._transport.abort()
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            gone = asyncio.ensure_future(self._process.wait())
            cancelled: asyncio.CancelledError | None = None
            while not gone.done():
                try:
                    await asyncio.wait([gone])
                except asyncio.CancelledError as error:
                    cancelled = error
            if cancelled is not None:
                raise cancelled

    # --- asyncio.BufferedProtocol: a plain Protocol would allocate 256 KB for each read

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the loop our buffer."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what the process wrote; give each whole answer to its request."""
        received = self._received
        received += self._buffer[:nbytes]
        while len(received) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(received)[0]
            if len(received) < end:
                return
            kind = bytes(received[LENGTH.size : LENGTH.size + 1])
            body = bytes(memoryview(received)[LENGTH.size + 1 : end])
            del received[:end]
            if kind == READY:
                if not self._hello.done():
                    self._hello.set_result(body.decode())
            else:
                self._answer(kind, body)

    def _answer(self, kind: bytes, body: bytes) -> None:
        request = self.pending.popleft()
        self._begun = self._loop.time()
        if not request.answer.done():  # a caller may have gone away
            if kind == GRAPH:
                request.answer.set_result(body)
            else:
                request.answer.set_exception(SchedulerError(body.decode("utf-8", "replace")))
        self._owner.answered()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket closed: the process is dead or about to be."""
        self.ready = False
        if not self.gone.done():
            self.gone.set_result("died")
        if not self._hello.done():
            self._hello.set_exception(OSError("it ended before it was ready"))


def environment() -> dict[str, str]:
    """Return our environment without what would make Pacemaker's code log, debug or read elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PCMK_", "HA_", "CIB_", "PE_"))}
