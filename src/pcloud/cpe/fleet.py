"""The engine processes as a whole: the socket they connect to, the slots, and what comes in from them.

Concurrency: a task a slot (supervision), a task a connection (reading). What to load where is not decided here: the
owner is told of every new connection (`on_link`) and of every end (`on_end`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from pcloud.cpe import processes, spool
from pcloud.cpe.heartbeat import until_silent
from pcloud.cpe.home import LATE, Home
from pcloud.cpe.ingest import Ingest
from pcloud.cpe.link import EngineLink
from pcloud.cpe.settings import EngineSettings
from pcloud.cpe.slot import Slot
from pcloud.dpe import messages
from pcloud.model.status import DeployableStatus
from pcloud.store.log import Log
from pcloud.store.rows import Entry

_log = logging.getLogger(__name__)
_HELLO = 15.0


class Fleet:
    """All slots."""

    def __init__(
        self,
        home: Home,
        *,
        command: Sequence[str],
        settings: Callable[[], EngineSettings],
        log: Log,
        ingest: Ingest,
        on_link: Callable[[Slot, EngineLink], None],
        on_status: Callable[[Slot, DeployableStatus], None],
        on_end: Callable[[Slot], None],
        on_silence: Callable[[Slot], None],
    ) -> None:
        self._home = home
        self._command = command
        self._settings = settings
        self._store = log
        self._ingest = ingest
        self._on_link = on_link
        self._on_status = on_status
        self._on_end = on_end
        self._on_silence = on_silence
        self.slots: dict[str, Slot] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._closed = False
        self._server: asyncio.Server | None = None

    async def start(self, slots: Sequence[str]) -> None:
        """Listen, take in what dead processes left, and see to these slots."""
        self._home.socket.unlink(missing_ok=True)  # the home's lock says that no other daemon listens on it
        self._server = await asyncio.start_unix_server(self._accept, self._home.socket, limit=2**20, backlog=1024)
        self._home.socket.chmod(0o600)
        left = {slot for _, slot, _ in self._home.spools()}
        for name in left - set(slots):
            if processes.holder(self._home, name) is None:
                await self._take_spools(name)
            else:
                self.ensure(name)  # of an earlier configuration; its deployables move away
        for name in slots:
            self.ensure(name)

    def ensure(self, name: str) -> Slot:
        """Return a slot, starting its supervision when it is new."""
        slot = self.slots.get(name)
        if slot is None:
            slot = Slot(
                name,
                home=self._home,
                command=self._command,
                hello_timeout=lambda: self._settings().hello_timeout,
                before_start=self._take_spools,
                on_end=self._on_end,
            )
            self.slots[name] = slot
            self._tasks[name] = asyncio.create_task(slot.run(), name=f"slot-{name}")
        return slot

    def retire(self, name: str) -> None:
        """Let a slot's process end and do not start another."""
        slot = self.slots.pop(name, None)
        if slot is None:
            return
        slot.retire()
        task = self._tasks.pop(name)
        if slot.link is not None:
            slot.link.send(messages.Shutdown())
        elif slot.pid:
            processes.kill(slot.pid, name)  # it does not hear us, and would look for us for ever
        else:
            task.cancel()
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def close(self, *, engines: bool) -> None:
        """Stop listening and supervising. Engine processes and guests go on, unless `engines`: then the processes end."""
        await self._stop_listening()
        if engines:
            retired = list(self.slots.values())
            for slot in retired:
                self.retire(slot.name)
            waiting = [task for task in self._connections if (task.get_name() or "").startswith("slot-")]
            if waiting:
                await asyncio.wait(waiting, timeout=10)
            for slot in retired:
                if slot.pid:
                    processes.kill(slot.pid, slot.name)
        for task in (*self._tasks.values(), *self._connections):
            task.cancel()
        for slot in self.slots.values():
            if slot.link is not None:
                slot.link.close()
        await asyncio.gather(*self._tasks.values(), *self._connections, return_exceptions=True)
        self._closed = True
        for writer in self._writers:  # a task that is cancelled before its first step closes nothing
            writer.transport.abort()

    async def _stop_listening(self) -> None:
        """Accept nobody any more.

        asyncio (Python 3.11) forgets a connection that it has accepted, but made no transport of yet, when its server
        closes: those are let in first.
        """
        server, self._server = self._server, None
        if server is None:
            return
        loop = asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        for _ in range(2):  # turns of the loop: what was accepted in this one is made a transport of in the next
            await asyncio.sleep(0)
        server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:  # it was on its way in when we stopped listening
            writer.transport.abort()
            return
        self._writers.add(writer)
        self._spawn(self._serve(reader, writer), "engine-connection")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link: EngineLink | None = None
        slot: Slot | None = None
        try:
            async with asyncio.timeout(_HELLO):
                hello = await messages.receive_up(reader)
            if not isinstance(hello, messages.Hello) or os.sep in hello.slot or not hello.slot:
                _log.error("a connection did not begin with Hello; closed")
                return
            link = EngineLink(hello, reader, writer)
            slot = self.ensure(hello.slot)
            if not self._admit(slot, link):
                link.send(messages.Shutdown())
                await link.drain()
                return
            await self._greet(slot, link)
            await self._read(slot, link)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass  # the other side went; supervision sees to the rest
        except (ValueError, msgspec.MsgspecError) as error:
            _log.error("engine process %s sent garbage: %s", slot.name if slot else "?", error)
        finally:
            if link is not None:
                link.close()
                if slot is not None:
                    slot.detach(link)
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _admit(self, slot: Slot, link: EngineLink) -> bool:
        """Tell whether this connection is the slot's process; of two processes the one that holds the lock is."""
        old = slot.link
        if old is None or old.process == link.process:
            if old is not None:
                old.close()
            return True
        if processes.holder(self._home, slot.name) == link.hello.pid:
            old.close()
            return True
        _log.error("two engine processes for slot %s: ending the newer (pid %d)", slot.name, link.hello.pid)
        return False

    async def _greet(self, slot: Slot, link: EngineLink) -> None:
        seen = await self._store.seen(link.process)
        if seen:
            link.acknowledge(seen)
        slot.attach(link)
        if link.hello.pid and not slot.pid:
            slot.pid = link.hello.pid
        self._on_link(slot, link)
        # Spools of earlier processes of this slot: this one lives, those do not.
        self._spawn(self._take_spools(slot.name, but=link.process), f"spools-{slot.name}")
        self._spawn(self._watch(slot, link), f"heartbeat-{slot.name}")

    async def _watch(self, slot: Slot, link: EngineLink) -> None:
        """Kill a process that is connected and does not work: its slot starts another, which takes over. Guests go on."""
        if await until_silent(link, lambda: self._settings().silence_timeout) and slot.link is link:
            _log.error("engine process %s (pid %d) is silent: ending it", slot.name, link.hello.pid)
            self._on_silence(slot)
            processes.kill(link.hello.pid, slot.name)
            link.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _read(self, slot: Slot, link: EngineLink) -> None:
        while True:
            message = await messages.receive_up(link.reader)
            link.heard += 1
            match message:
                case messages.Record() as record:
                    await self._ingest.put(_entry(link.process, record), link)
                case messages.Status(status=status):
                    self._on_status(slot, status)
                case messages.Reply() as reply:
                    link.answer(reply)
                case messages.Statistics(counters=counters):
                    link.counters = counters
                case messages.Hello():
                    pass

    async def _take_spools(self, slot: str, but: str = "") -> None:
        """Take in the spools of a slot's processes that have ended, and remove them once all is committed."""
        for path, name, process in self._home.spools():
            if name != slot or process == but:
                continue
            try:
                count = 0
                for record in spool.records(path):
                    if record.state is not None and path.suffix == LATE:
                        continue  # the deployable has a newer one, of the engine that another daemon gave it to
                    await self._ingest.put_patiently(_entry(process, record))
                    count += 1
                await self._ingest.flush()
                path.unlink()
            except OSError as error:
                _log.error("spool %s can not be taken in: %s", path, error)
            else:
                self._store.forget(process)
                _log.info("took in %d records that engine process %s/%s had left", count, slot, process)


def _entry(process: str, record: messages.Record) -> Entry:
    return Entry(
        process=process,
        sequence=record.sequence,
        deployable=record.deployable or (record.event.deployable if record.event else ""),
        event=record.event,
        decision=record.decision,
        state=record.state,
    )
