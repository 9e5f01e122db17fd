"""What every transport must do, as tests: a transport's test module subclasses `TransportContract`.

The fixture `peer` gives a running guest's side with `connect(on_result, on_lost) → Connection`, `operation(action,
**changes)` of a service that is stopped at first, `kill_service()`, `silence()` (the guest answers nothing any more)
and `drop()` (the link is cut). Connections made after `impatient()` notice silence within a second or so; others ask for
signs of life hourly. Every connection made is closed by the fixture.
"""

from __future__ import annotations

import asyncio

import pytest

from pcloud.environment.transport import OperationResult, OperationStatus, TransportError


class Told:
    """What a connection told."""

    def __init__(self) -> None:
        self.results: list[OperationResult] = []
        self.lost: list[TransportError] = []

    async def until(self, condition, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)


class TransportContract:
    """The tests."""

    @pytest.fixture
    def told(self):
        return Told()

    @pytest.fixture
    async def connection(self, peer, told):
        return await peer.connect(told.results.append, told.lost.append)

    async def test_probe_start_monitor_stop(self, peer, connection):
        assert (await connection.execute(peer.operation("monitor"))).rc == 7
        started = await connection.execute(peer.operation("start"))
        assert (started.rc, started.status, started.signal) == (0, OperationStatus.DONE, "request")
        assert (await connection.execute(peer.operation("monitor"))).rc == 0
        assert (await connection.execute(peer.operation("stop"))).rc == 0
        assert (await connection.execute(peer.operation("monitor"))).rc == 7

    async def test_unknown_agent_is_not_installed(self, peer, connection):
        result = await connection.execute(peer.operation("monitor", type="nothing-like-it"))
        assert result.rc == 5

    async def test_recurring_monitor_tells_changes_only(self, peer, connection, told):
        await connection.execute(peer.operation("start"))
        first = await connection.execute(peer.operation("monitor", interval=0.3))
        assert (first.rc, first.interval) == (0, 0.3)
        await asyncio.sleep(1.0)  # nothing may come of three monitors that find no change
        assert told.results == []
        peer.kill_service()
        await told.until(lambda: bool(told.results))
        assert (told.results[0].rc, told.results[0].action, told.results[0].interval) == (7, "monitor", 0.3)
        await asyncio.sleep(1.0)  # nor of three that find the same failure
        assert len(told.results) == 1

    async def test_a_stop_ends_recurring_monitors(self, peer, connection, told):
        await connection.execute(peer.operation("start"))
        await connection.execute(peer.operation("monitor", interval=0.2))
        assert (await connection.execute(peer.operation("stop"))).rc == 0
        await asyncio.sleep(0.8)  # nothing may come
        assert told.results == []

    async def test_time_out(self, peer, connection):
        result = await connection.execute(peer.operation("slow", timeout=0.5))
        assert result.status is OperationStatus.TIMEOUT

    async def test_an_operation_waits_for_its_start_delay(self, peer, connection):
        began = asyncio.get_running_loop().time()
        result = await connection.execute(peer.operation("monitor", start_delay=1.0))
        assert asyncio.get_running_loop().time() - began >= 1.0
        assert result.rc == 7

    async def test_the_first_run_of_a_recurring_monitor_waits_for_its_start_delay(self, peer, connection, told):
        loop = asyncio.get_running_loop()
        await connection.execute(peer.operation("start"))
        began = loop.time()
        first = await connection.execute(peer.operation("monitor", interval=0.2, start_delay=1.0))
        assert loop.time() - began >= 1.0
        assert (first.rc, first.status, first.interval) == (0, OperationStatus.DONE, 0.2)
        peer.kill_service()
        await told.until(lambda: bool(told.results))
        assert (told.results[0].rc, told.results[0].interval) == (7, 0.2)

    @pytest.mark.parametrize("end", ["stop", "cancel"])
    async def test_a_recurring_monitor_that_waits_for_its_start_delay_holds_nothing_up(
        self, peer, connection, told, end
    ):
        await connection.execute(peer.operation("start"))
        late = asyncio.create_task(
            connection.execute(peer.operation("monitor", interval=0.2, start_delay=3600.0)), name="late"
        )
        assert (await connection.execute(peer.operation("monitor"))).rc == 0  # passes it
        assert not late.done()
        if end == "stop":
            assert (await connection.execute(peer.operation("stop"))).rc == 0
        else:
            await connection.cancel(peer.operation("monitor").resource, "monitor", 0.2)
        async with asyncio.timeout(60):
            assert (await late).status is OperationStatus.CANCELLED
        assert told.results == []

    async def test_cancel_and_forget_of_what_is_unknown(self, connection):
        await connection.cancel("nothing", "monitor", 10.0)
        await connection.forget("nothing")

    async def test_check_of_a_guest_that_answers(self, connection):
        await connection.check(timeout=60)

    async def test_silence_is_told_once(self, peer, told):
        peer.impatient()
        connection = await peer.connect(told.results.append, told.lost.append)
        peer.silence()
        await told.until(lambda: bool(told.lost))
        with pytest.raises(TransportError):
            await connection.execute(peer.operation("monitor"))
        with pytest.raises(TransportError):
            await connection.check(timeout=1)
        await asyncio.sleep(0.5)  # nothing more may come
        assert len(told.lost) == 1

    async def test_a_cut_link_is_told_at_once(self, peer, connection, told):
        peer.drop()
        await told.until(lambda: bool(told.lost))  # an hour before anybody would ask

    async def test_close_is_silent_and_final(self, connection, told):
        await connection.close()
        with pytest.raises(TransportError):
            await connection.check(timeout=1)
        await asyncio.sleep(0.3)  # nothing may come
        assert told.lost == []
