"""A stand-in engine process: speaks the real messages over the real socket, "runs" guests as files in a folder.

Guests are files under $FAKE_GUESTS (one a guest, content = pid that made it and a serial), so that a test sees that guests
outlive every process and that none is made twice. Records go to a spool until they are acknowledged, as the real one does.
Knobs by deployable name: `slow…` takes a second to delete, `stubborn…` refuses its first two deletions.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import math
import os
import secrets
import sys
import time
from pathlib import Path

import msgspec

from pcloud.dpe import messages
from pcloud.dpe.deadline import Deadline
from pcloud.events.event import Event
from pcloud.model.deployable import Deployable, ResourceState
from pcloud.model.status import AssemblyStatus, DeployableStatus, ResourceStatus
from pcloud.policy.standstill import standstill
from pcloud.policy.state import Memory, initial


class FakeEngine:
    def __init__(self, options: argparse.Namespace) -> None:
        self.home = Path(options.home)
        self.slot = options.slot
        self.socket = options.socket
        self.process = secrets.token_hex(8)
        self.guests = Path(os.environ["FAKE_GUESTS"])
        self.loaded: dict[str, tuple[Deployable, str]] = {}
        self.paused: dict[str, bool] = {}
        self.revisions: dict[str, int] = {}
        self.sequence = 0
        self.unacknowledged: dict[int, messages.Record] = {}
        self.spool = self.home / "run" / f"spool-{self.slot}-{self.process}.bin"
        self.writer: asyncio.StreamWriter | None = None
        self.refusals: dict[str, int] = {}
        self.stop = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.deadline = Deadline()

    def send(self, message: messages.Up) -> None:
        if self.writer is not None:
            self.writer.write(messages.encode(message))

    def record(self, **parts: object) -> None:
        self.sequence += 1
        record = messages.Record(sequence=self.sequence, **parts)
        self.unacknowledged[self.sequence] = record
        with self.spool.open("ab") as file:
            file.write(messages.encode(record))
        self.send(record)

    def event(self, name: str, kind: str, state: str, reason: str, **data: object) -> None:
        self.record(
            deployable=name,
            event=Event(time=time.time(), type=kind, deployable=name, state=state, reason=reason, data=data),
        )

    def acknowledged(self, sequence: int) -> None:
        for number in [number for number in self.unacknowledged if number <= sequence]:
            del self.unacknowledged[number]
        if not self.unacknowledged:
            self.spool.unlink(missing_ok=True)

    def load(self, load: messages.Load) -> None:
        name = load.deployable.name
        assert set(load.guests) == {one.name for one in load.deployable.assemblies}
        known = name in self.loaded
        old = self.loaded.get(name)
        self.loaded[name] = (load.deployable, load.target)
        self.paused[name], self.revisions[name] = load.paused, load.revision
        if not known:
            carried = (load.state or b"0").decode()
            self.record(deployable=name, state=str(int(carried) + 1).encode())
            with (self.guests / f"loads.{name}").open("a") as file:
                file.write(f"{self.process} state={carried}\n")
        digests = {one: material.image.digest for one, material in load.guests.items()}
        written = self.guests / f".images.{name}"  # whoever waits for the file finds all of it
        written.write_text(json.dumps(digests))
        written.rename(self.guests / f"images.{name}")
        wanted = {f"{name}.{one.name}" for one in load.deployable.assemblies} if load.target == "started" else set()
        present = {path.name for path in self.guests.glob(f"{name}.*")}
        for guest in wanted - present:
            (self.guests / guest).write_text(f"{secrets.token_hex(4)}\n")
        for guest in present - wanted:
            (self.guests / guest).unlink()
        if not known or old != self.loaded[name]:
            state = "running" if load.target == "started" else "stopped"
            self.event(name, "deployable.state", state, "as it shall be")
            decision = {
                "time": time.time(),
                "number": self.sequence,
                "trigger": "the configuration changed",
                "actions": [
                    {"action": "start", "subject": f"{one.name}/x", "why": "it shall run"}
                    for one in load.deployable.assemblies
                ],
                "outcome": "done",
            }
            self.record(deployable=name, decision=decision)
        self.status(name)

    def status(self, name: str, state: ResourceState | None = None) -> None:
        deployable, target = self.loaded[name]
        state = state or (ResourceState.RUNNING if target == "started" else ResourceState.STOPPED)
        self.send(
            messages.Status(
                status=DeployableStatus(
                    name=name,
                    state=state,
                    infrastructure=deployable.infrastructure,
                    target=target,
                    paused=self.paused[name],
                    revision=self.revisions[name],
                    since=time.time(),
                    assemblies=tuple(
                        AssemblyStatus(
                            name=one.name,
                            state=state,
                            address="10.0.0.1",
                            resources=tuple(ResourceStatus(name=r.name, state=state) for r in one.resources),
                        )
                        for one in deployable.assemblies
                    ),
                )
            )
        )

    async def unload(self, message: messages.Unload) -> None:
        name = message.name
        if message.delete:
            if name.startswith("slow"):
                await asyncio.sleep(1)
            if name.startswith("stubborn") and self.refusals.setdefault(name, 0) < 2:
                self.refusals[name] += 1
                self.send(messages.Reply(request=message.request, error="INFRASTRUCTURE_DOWN: it does not answer"))
                return
            for path in self.guests.glob(f"{name}.*"):
                path.unlink(missing_ok=True)
        self.loaded.pop(name, None)
        self.send(messages.Reply(request=message.request))

    def command(self, message: messages.Command) -> None:
        if message.action == "ping":
            self.send(messages.Reply(request=message.request))
        elif message.name not in self.loaded:
            self.send(messages.Reply(request=message.request, error="NOT_LOADED: it is not loaded here"))
        elif message.action == "execute":
            argv = message.arguments["argv"]
            if argv[0] == "die":
                os._exit(9)
            if argv[0] == "flood":
                for number in range(int(argv[1])):
                    self.event(message.name, "flood", "", str(number))
            result = {"returncode": 0, "stdout": " ".join(argv).encode() + message.arguments["stdin"], "stderr": b""}
            self.send(messages.Reply(request=message.request, result=result))
        elif message.action == "console":
            self.send(messages.Reply(request=message.request, result=b"login: \xff\n"))
        elif message.action == "snapshot":
            result = msgspec.to_builtins(initial(self.loaded[message.name][0], Memory()))
            self.send(messages.Reply(request=message.request, result=result))
        elif message.action == "standstill":
            result = msgspec.to_builtins(standstill(initial(self.loaded[message.name][0], Memory()), time.time()))
            self.send(messages.Reply(request=message.request, result=result))
        elif message.action == "inject":
            task = asyncio.create_task(self.injected(message.name, message.arguments))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            self.send(messages.Reply(request=message.request, result="a stand-in for it"))
        elif message.action == "recover":
            self.event(message.name, "deployable.state", "running", "recovered", recovered=0.2)
            self.send(messages.Reply(request=message.request))
        else:
            self.send(messages.Reply(request=message.request, error="UNKNOWN_ACTION: what is that"))

    async def injected(self, name: str, arguments: dict[str, str]) -> None:
        """A fault and its recovery; of a deployable `mute…` nobody notices it, of `lame…` it is not mended."""
        assembly, resource = arguments["assembly"], arguments["resource"]
        for state in ("failed", "starting", "running"):
            if name.startswith("mute") or (name.startswith("lame") and state == "running"):
                return
            await asyncio.sleep(0.1)
            event = Event(
                time=time.time(), type="resource.state" if resource else "assembly.state", deployable=name,
                assembly=assembly, resource=resource, state=state, reason="its process exited",
            )  # fmt: skip
            self.record(deployable=name, event=event)
            self.status(name, ResourceState(state))

    async def session(self) -> None:
        reader, self.writer = await asyncio.open_unix_connection(self.socket)
        self.send(messages.Hello(process=self.process, slot=self.slot, pid=os.getpid(), loaded=tuple(self.loaded)))
        for record in list(self.unacknowledged.values()):
            self.send(record)
        for name in self.loaded:
            self.status(name)
        self.send(messages.Statistics(counters={"decisions": 1.0}))
        tasks = set()
        try:
            while True:
                match await messages.receive_down(reader):
                    case messages.Load() as load:
                        self.load(load)
                    case messages.Unload() as unload:
                        task = asyncio.create_task(self.unload(unload))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                    case messages.Command() as command:
                        self.command(command)
                    case messages.Acknowledge(sequence=sequence):
                        self.acknowledged(sequence)
                    case messages.Shutdown():
                        self.stop.set()
                        return
                    case messages.Settings(until=until, starts_in_flight=starts):
                        (self.guests / f"starts.{self.slot}").write_text(str(starts))
                        self.deadline.move(math.inf if until is None else until)
                await self.writer.drain()
        finally:
            self.writer.close()
            self.writer = None

    async def act(self) -> None:
        """While anything is loaded, write down again and again that we act: where $FAKE_ACTS says."""
        acts = os.open(os.environ["FAKE_ACTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while True:
            if self.loaded:
                os.write(acts, f"{time.clock_gettime(time.CLOCK_BOOTTIME)} {self.home.name} {self.process}\n".encode())
            await asyncio.sleep(0.02)

    async def run(self) -> None:
        if "FAKE_ACTS" in os.environ:
            self.tasks.add(asyncio.create_task(self.act()))
        while not self.stop.is_set():
            try:
                await self.session()
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--socket", "--slot", "--home"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    lock = (Path(options.home) / "run" / f"dped-{options.slot}.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(3)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    asyncio.run(FakeEngine(options).run())


if __name__ == "__main__":
    main()
