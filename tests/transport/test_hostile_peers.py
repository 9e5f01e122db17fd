"""Peers that know the key and misbehave: a coded error, the connection dropped, nothing else harmed."""

import asyncio
import struct
import threading
import time

import pytest

from pcloud.environment.transport import Operation, OperationStatus, TransportError
from pcloud.transport.remote import RemoteTransport
from pcloud.wire import frame
from pcloud.wire import messages as m
from tests.transport.client import Recorder, connected, endpoint, operation
from tests.transport.hostile import HostileServer

MAGIC = frame.MAGIC


def header(*fields: int) -> bytes:
    return struct.pack("=IIQQIIII", *fields)


def framed(payload: bytes) -> bytes:
    return b"".join(frame.encode(payload))


BILLION = (
    b'<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(8))
    + b"]><lrmd_notify>&i;</lrmd_notify>"
)
RAW = {
    "garbage": (b"hello, world" * 20, "BAD_MAGIC"),
    "wrong magic": (header(0xDEADBEEF, 1, 0, 0, 44, 40, 0, 4) + b"<a>\0", "BAD_MAGIC"),
    "4 GiB announced": (header(MAGIC, 1, 0, 0, 0xFFFFFFFF, 40, 0, 0xFFFFFFFF - 40), "TOO_LARGE"),
    "sizes that contradict": (header(MAGIC, 1, 0, 0, 99, 40, 0, 4) + b"<a>\0", "BAD_HEADER"),
    "no final NUL": (header(MAGIC, 1, 0, 0, 44, 40, 0, 4) + b"<a/>", "BAD_PAYLOAD"),
    "not compressed": (header(MAGIC, 1, 0, 0, 44, 40, 4, 400) + b"BZh9", "BAD_PAYLOAD"),
    "no XML": (framed(b"hello"), "BAD_XML"),
    "XML bomb": (framed(BILLION), "BAD_XML"),
    "external entity": (framed(b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>'), "BAD_XML"),
    "deep XML": (framed(b"<a>" * 5000 + b"</a>" * 5000), "BAD_XML"),
    "another protocol": (framed(b"<cib_command/>"), "PROTOCOL"),
}


@pytest.mark.parametrize("name", RAW)
async def test_bad_bytes_end_the_connection_with_a_code(name):
    data, code = RAW[name]

    def behave(peer):
        peer.sign_on()
        peer.raw(data)

    server = HostileServer(behave)
    async with connected(server) as (connection, recorder):
        await recorder.until(lambda r: r.lost)
        assert recorder.lost[0].code == code
        with pytest.raises(TransportError) as raised:
            await connection.check(timeout=1)
        assert raised.value.code == code
        await asyncio.to_thread(server.done.wait, 60)
        assert server.closed_by_us
    server.close()


@pytest.mark.parametrize("name", RAW)
async def test_bad_bytes_instead_of_the_sign_on(name):
    data, code = RAW[name]
    server = HostileServer(lambda peer: peer.raw(data))
    with pytest.raises(TransportError) as raised:
        async with connected(server):
            pass
    assert raised.value.code == code
    server.close()


async def test_a_sign_on_that_is_refused():
    def behave(peer):
        request = peer.receive()
        reply = m.Element(m.REPLY, {"lrmd_rc": "-71", "lrmd_op": "register"})
        peer.send(reply, request.get("lrmd_remote_msg_id"), "reply")

    server = HostileServer(behave)
    with pytest.raises(TransportError) as raised:
        async with connected(server):
            pass
    assert raised.value.code == "PROTOCOL"
    server.close()


async def test_no_tls_at_all():
    server = HostileServer(None, before_tls=lambda connection: connection.sendall(b"220 smtp ready\r\n" * 10))
    with pytest.raises(TransportError) as raised:
        async with connected(server):
            pass
    assert raised.value.code == "TLS"
    server.close()


async def test_silence_before_tls_and_at_the_sign_on():
    enough = threading.Event()
    for server in (
        HostileServer(None, before_tls=lambda connection: enough.wait(60)),
        HostileServer(lambda peer: enough.wait(60)),
    ):
        transport = RemoteTransport()
        with pytest.raises(TransportError) as raised:
            await transport.connect(endpoint(server), on_result=lambda _: None, on_lost=lambda _: None, timeout=0.5)
        assert raised.value.code == "TIMEOUT"
        assert not server.done.is_set(), "the server has not moved yet"
        enough.set()
        server.close()
        enough.clear()


async def test_a_truncated_frame():
    def behave(peer):
        peer.sign_on()
        peer.raw(header(MAGIC, 1, 0, 0, 1040, 40, 0, 1000) + b"<a")
        peer.socket.close()

    server = HostileServer(behave)
    async with connected(server) as (_, recorder):
        await recorder.until(lambda r: r.lost)
        assert recorder.lost[0].code == "CLOSED"
    server.close()


async def test_endless_silence_is_noticed_by_the_health_check():
    server = HostileServer(lambda peer: peer.sign_on())
    async with connected(server, poke_interval=0.3, poke_timeout=0.4) as (_, recorder):
        await recorder.until(lambda r: r.lost)
        assert recorder.lost[0].code == "NO_ANSWER"
    server.close()


async def test_slow_bytes_are_noticed(monkeypatch):
    def behave(peer):
        peer.sign_on()
        data = framed(b"<lrmd_notify/>" + b" " * 100)
        for at in range(len(data) - 1):
            peer.raw(data[at : at + 1])
            time.sleep(0.1)

    server = HostileServer(behave)
    async with connected(server, poke_interval=0.3, poke_timeout=100.0) as (_, recorder):
        monkeypatch.setattr("pcloud.transport.session.REPLY_TIMEOUT", 0.8)
        await recorder.until(lambda r: r.lost)
        assert recorder.lost[0].code == "TOO_SLOW"
    server.close()


async def test_a_peer_that_does_not_read(monkeypatch):
    monkeypatch.setattr("pcloud.transport.channel.MAX_QUEUED", 300_000)
    enough = threading.Event()
    server = HostileServer(lambda peer: (peer.sign_on(), enough.wait(60)))
    async with connected(server) as (connection, recorder):
        tasks = [
            asyncio.ensure_future(
                connection.execute(
                    Operation(
                        resource=f"r{n}",
                        resource_class="lsb",
                        type="x",
                        action="start",
                        parameters={"x": "y" * 900_000},
                    )
                )
            )
            for n in range(12)
        ]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {TransportError}
        assert recorder.lost[0].code == "NOT_READING"
    enough.set()
    server.close()


async def test_a_request_that_is_never_replied_to(monkeypatch):
    server = HostileServer(lambda peer: peer.sign_on())
    async with connected(server) as (connection, recorder):
        monkeypatch.setattr("pcloud.transport.session.REPLY_TIMEOUT", 0.3)
        with pytest.raises(TransportError) as raised:
            await connection.forget("x")
        assert raised.value.code == "NO_REPLY"
        assert recorder.lost[0].code == "NO_REPLY"
    server.close()


async def test_an_operation_whose_result_never_comes(monkeypatch):
    monkeypatch.setattr("pcloud.transport.session.MARGIN", 0.2)
    server = HostileServer(lambda peer: (peer.sign_on(), peer.serve(2)))
    async with connected(server) as (connection, recorder):
        result = await connection.execute(
            Operation(resource="r", resource_class="lsb", type="x", action="start", timeout=0.2)
        )
        assert (result.status, result.rc) == (OperationStatus.TIMEOUT, 1)
        assert recorder.lost == []
    server.close()


async def test_replies_and_results_that_nobody_asked_for():
    def behave(peer):
        peer.sign_on()
        for attributes in (
            {"lrmd_op": "lrmd_rsc_exec", "lrmd_rsc_interval": "1000", "lrmd_rsc_id": "x", "lrmd_rsc_action": "monitor"},
            {"lrmd_op": "lrmd_rsc_exec", "lrmd_exec_op_status": "99999999999", "lrmd_exec_rc": "x"},
            {"lrmd_op": "nonsense"},
            {},
        ):
            peer.send(m.Element(m.NOTIFY, dict(attributes)), "0", "notify")
        peer.send(m.Element(m.REPLY, {"lrmd_rc": "0"}), "4711", "reply")
        peer.send(m.Element(m.REPLY, {"lrmd_rc": "0"}), "", "reply")
        peer.send(m.Element(m.PROXY, {"lrmd_ipc_op": "new", "lrmd_ipc_session": "s"}), "0", "notify")
        peer.serve(2)

    server = HostileServer(behave)
    async with connected(server) as (connection, recorder):
        await connection.check(timeout=60)
        assert recorder.results == []
        assert recorder.lost == []
    server.close()


async def test_one_bad_peer_harms_no_other(agent):
    def behave(peer):
        peer.sign_on()
        peer.raw(b"x" * 10_000)

    server = HostileServer(behave)
    transport = RemoteTransport()
    good, bad = Recorder(), Recorder()
    connection = await transport.connect(endpoint(agent), on_result=good.on_result, on_lost=good.on_lost, timeout=60)
    await transport.connect(endpoint(server), on_result=bad.on_result, on_lost=bad.on_lost, timeout=60)
    await bad.until(lambda r: r.lost)
    assert (await connection.execute(operation(agent, "start"))).rc == 0
    assert good.lost == []
    await transport.close()
    server.close()
