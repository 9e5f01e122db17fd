"""Broadcasting, the CloudEvents form, sinks."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import sys
from pathlib import Path

import pytest

from pcloud.events.broadcast import Broadcaster, Closed, TooSlow
from pcloud.events.cloudevents import encode, to_cloudevent
from pcloud.events.event import Event, Severity
from pcloud.events.filters import EventFilter
from pcloud.events.sinks.base import DeliveryError
from pcloud.events.sinks.command import Command
from pcloud.events.sinks.runner import SinkRunner
from pcloud.events.sinks.syslog import Syslog
from pcloud.events.sinks.webhook import Webhook


def event(sequence: int, **more: object) -> Event:
    return Event(time=1700000000.25, type="resource.state", sequence=sequence, **more)  # type: ignore[arg-type]


def test_cloudevent_form() -> None:
    made = event(
        7,
        deployable="shop",
        assembly="web",
        resource="httpd",
        state="failed",
        reason="it ended",
        data={"rc": 7, "state": "x"},
    )
    assert to_cloudevent(made, "host1") == {
        "specversion": "1.0",
        "id": "7",
        "source": "/pcloud/host1",
        "type": "org.pacemaker-cloud.resource.state",
        "subject": "shop/web/httpd",
        "time": "2023-11-14T22:13:20.250000Z",
        "datacontenttype": "application/json",
        "data": {
            "rc": 7,
            "deployable": "shop",
            "assembly": "web",
            "resource": "httpd",
            "state": "failed",
            "reason": "it ended",
            "severity": "info",
        },
    }


async def test_a_slow_reader_is_cut_off_and_told_where_it_was() -> None:
    broadcaster = Broadcaster(limit=3)
    with broadcaster.subscribe() as slow, broadcaster.subscribe(EventFilter(severity=Severity.WARNING)) as quiet:
        broadcaster.publish([event(number) for number in range(1, 6)])
        assert [(await slow.next()).sequence for _ in range(3)] == [1, 2, 3]  # type: ignore[union-attr]
        with pytest.raises(TooSlow) as caught:
            await slow.next()
        assert caught.value.cursor == 3
        assert await quiet.next(timeout=0.01) is None
        assert len(broadcaster) == 1
        broadcaster.close()
        with pytest.raises(Closed):
            await quiet.next()
    with broadcaster.subscribe() as late, pytest.raises(Closed):
        await late.next()


class Flaky:
    """A receiver that fails now and then."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.got: list[int] = []

    async def deliver(self, event: Event) -> None:
        if self.failures:
            self.failures -= 1
            raise DeliveryError("not now")
        self.got.append(event.sequence)

    async def close(self) -> None:
        pass


class MemoryLog:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.saved = 0

    async def read(self, where: EventFilter, after: int, limit: int) -> tuple[list[Event], int]:
        found = [one for one in self.events if one.sequence > after and where.matches(one)][:limit]
        return found, found[-1].sequence if found else after

    async def save(self, sequence: int) -> None:
        self.saved = sequence


async def test_a_sink_delivers_in_order_through_failures_and_goes_on_where_it_was() -> None:
    log, broadcaster, sink = MemoryLog(), Broadcaster(), Flaky(3)
    log.events = [event(number) for number in range(1, 4)]

    def runner(give_up: float = 60.0) -> SinkRunner:
        return SinkRunner(
            "s",
            sink,
            EventFilter(),
            read=log.read,
            save=log.save,
            broadcaster=broadcaster,
            first_delay=0.001,
            give_up=give_up,
        )

    async def until(count: int) -> None:
        async with asyncio.timeout(60):
            while len(sink.got) < count:
                await asyncio.sleep(0.001)

    task = asyncio.create_task(runner().run(0))
    await until(3)
    log.events.append(event(4))
    broadcaster.publish([event(4)])
    await until(4)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    log.events += [event(5), event(6)]
    sink.failures = 2
    task = asyncio.create_task(runner(give_up=0.001).run(log.saved))
    await until(5)
    assert sink.got == [1, 2, 3, 4, 6], "one event that can not be delivered is left out in the end"
    broadcaster.close()
    await task


async def test_command_sink(tmp_path: Path) -> None:
    target = tmp_path / "got"
    script = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"
    sink = Command([sys.executable, "-c", script, str(target)], host="h")
    await sink.deliver(event(1, reason="; rm -rf $HOME"))
    assert json.loads(target.read_text())["data"]["reason"] == "; rm -rf $HOME"
    with pytest.raises(DeliveryError, match="status 3"):
        await Command([sys.executable, "-c", "raise SystemExit(3)"], host="h").deliver(event(1))
    with pytest.raises(DeliveryError, match="can not be run"):
        await Command([str(tmp_path / "none")], host="h").deliver(event(1))
    with pytest.raises(DeliveryError, match="did not end"):
        await Command([sys.executable, "-c", "import time; time.sleep(60)"], host="h", timeout=0.3).deliver(event(1))


async def test_webhook_is_signed_and_its_secret_never_shown() -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        got.append(head + await reader.readexactly(length))
        status = b"204 No Content" if len(got) > 1 else b"500 Oops"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sink = Webhook(f"http://127.0.0.1:{port}/hook", host="h", secret="hush")
    with pytest.raises(DeliveryError, match="answered 500"):
        await sink.deliver(event(1))
    await sink.deliver(event(1))
    head, _, body = got[1].partition(b"\r\n\r\n")
    assert body == encode(event(1), "h")
    expected = hmac.new(b"hush", body, hashlib.sha256).hexdigest().encode()
    assert b"sha256=" + expected in head
    server.close()
    await server.wait_closed()
    with pytest.raises(DeliveryError) as caught:
        await sink.deliver(event(1))
    assert "hush" not in str(caught.value)
    await sink.close()


async def test_syslog_sink_keeps_a_line_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(path))
    sink = Syslog(str(path), host="h")
    await sink.deliver(event(1, deployable="shop", reason="two\n<0>lines", severity=Severity.CRITICAL))
    assert receiver.recv(4096) == b"<26>pcloud: resource.state shop two?<0>lines"
    receiver.close()
    with pytest.raises(DeliveryError):
        await sink.deliver(event(2))
    await sink.close()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    sink = Syslog(f"127.0.0.1:{udp.getsockname()[1]}", host="h")
    await sink.deliver(event(3))
    assert udp.recv(4096).startswith(b"<30>1 2023-11-14T22:13:20.250+00:00 h pcloud - 3 - resource.state")
    await sink.close()
    udp.close()
