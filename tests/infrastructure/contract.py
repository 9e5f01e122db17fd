"""What every Infrastructure must do, as tests: a driver's test module subclasses `InfrastructureContract`.

    class TestLxc(InfrastructureContract):
        @pytest.fixture
        async def infrastructure(self): …yields an open driver…
        @pytest.fixture
        def make_spec(self): …returns a function NAME → GuestSpec of a bootable image…
        async def kill(self, infrastructure, guest_id): …ends the guest behind the driver's back…

Override `reopen` (a second driver on the same infrastructure), and `freeze` where guests can be frozen; without them the
tests that need them are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from pcloud.environment.infrastructure import (
    Capability,
    GuestEvent,
    GuestSpec,
    GuestState,
    HasChanges,
    HasNetwork,
    HasVolumes,
    Infrastructure,
    InfrastructureError,
    InfrastructureUnavailable,
    Vitality,
)
from pcloud.model.deployable import AttachedVolume

MakeSpec = Callable[[str], GuestSpec]


async def poll(condition: Callable[[], Awaitable[bool]], deadline: float = 300.0) -> None:
    """Wait until something holds; fail after `deadline` seconds."""
    async with asyncio.timeout(deadline):
        while not await condition():
            await asyncio.sleep(0.05)


async def verdict(infrastructure: Infrastructure, guest_id: str) -> Vitality:
    """Ask how a guest is until something is said: a look that meets a busy host says UNKNOWN, and the engine asks again
    then. Fails after minutes."""
    async with asyncio.timeout(300):
        while (seen := await infrastructure.check(guest_id, timeout=4)) is Vitality.UNKNOWN:
            await asyncio.sleep(0.2)
    return seen


class Events:
    """What `watch` yields, kept."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, GuestEvent]] = []
        self._more = asyncio.Event()

    async def follow(self, infrastructure: Infrastructure) -> None:
        """Run as a task until the driver is closed; a watch that ends because nobody answers is taken up again."""
        while True:
            try:
                async for event in infrastructure.watch():
                    self.seen.append((time.monotonic(), event))
                    self._more.set()
                return
            except InfrastructureUnavailable:
                await asyncio.sleep(0.1)

    async def until(self, guest_id: str, state: GuestState, *, since: float, deadline: float = 300.0) -> float:
        """Return when (monotonic) the guest was first told to have that state after `since`."""
        async with asyncio.timeout(deadline):
            while True:
                for when, event in self.seen:
                    if when >= since and event.guest_id == guest_id and event.state == state:
                        return when
                self._more.clear()
                await self._more.wait()


@contextlib.asynccontextmanager
async def watching(infrastructure: Infrastructure) -> AsyncIterator[Events]:
    """Collect events while the block runs."""
    events = Events()
    task = asyncio.create_task(events.follow(infrastructure))
    await asyncio.sleep(0)  # let it subscribe
    try:
        yield events
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class InfrastructureContract:
    """The tests. Every guest they make is deleted by the `infrastructure` fixture's owner or by the test itself."""

    stop_timeout = 20.0
    """Seconds an orderly stop may take; machines that are still booting hear nothing of it."""

    async def kill(self, infrastructure: Infrastructure, guest_id: str) -> None:
        """End a guest behind the driver's back."""
        raise NotImplementedError

    async def freeze(self, infrastructure: Infrastructure, guest_id: str) -> None:
        """Stop a guest's execution without ending it."""
        pytest.skip("guests of this infrastructure can not be frozen here")

    def reopen(self, infrastructure: Infrastructure) -> Infrastructure:
        """Open a second driver on the same infrastructure, as a new process would."""
        pytest.skip("no second driver here")

    async def test_names_itself_and_its_places(self, infrastructure: Infrastructure) -> None:
        assert infrastructure.name
        assert len(await infrastructure.places()) >= 1

    async def test_a_guest_that_is_off_is_started_where_it_is_asked_for(
        self, infrastructure: Infrastructure, make_spec: MakeSpec
    ) -> None:
        places = await infrastructure.places()
        if len(places) < 2:
            pytest.skip("there is one place here")
        here, there = places[:2]
        spec = msgspec.structs.replace(make_spec("moves"), place=here)
        first = await infrastructure.start(spec)
        assert first.place == here
        elsewhere = msgspec.structs.replace(spec, place=there)
        left = await infrastructure.start(elsewhere)
        assert (left.place, left.boot_id) == (here, first.boot_id), "what runs is left alone, wherever it is"
        await infrastructure.destroy(spec.guest_id)
        moved = await infrastructure.start(elsewhere)
        assert (moved.place, moved.state, moved.digest) == (there, GuestState.RUNNING, spec.digest)
        assert moved.boot_id != first.boot_id
        assert await infrastructure.inspect(spec.guest_id) == moved
        assert [g.place for g in await infrastructure.list_guests() if g.guest_id == spec.guest_id] == [there]
        await infrastructure.destroy(spec.guest_id)
        stays = await infrastructure.start(msgspec.structs.replace(spec, place=""))
        assert (stays.place, stays.address) == (there, moved.address), "no place asked for: it stays where it is"
        await infrastructure.delete(spec.guest_id)

    async def test_life_of_a_guest(self, infrastructure: Infrastructure, make_spec: MakeSpec) -> None:
        spec = make_spec("life")
        assert (await infrastructure.inspect(spec.guest_id)).state == GuestState.ABSENT
        started = await infrastructure.start(spec)
        assert (started.state, started.digest) == (GuestState.RUNNING, spec.digest)
        assert started.address
        assert started.boot_id
        assert await infrastructure.inspect(spec.guest_id) == started
        assert spec.guest_id in [g.guest_id for g in await infrastructure.list_guests()]
        assert (await infrastructure.start(spec)).boot_id == started.boot_id, "a running guest was started again"
        await infrastructure.stop(spec.guest_id, timeout=self.stop_timeout)
        assert (await infrastructure.inspect(spec.guest_id)).state == GuestState.STOPPED
        again = await infrastructure.start(spec)
        assert again.boot_id != started.boot_id
        assert again.address == started.address, "a guest keeps its address"
        await infrastructure.destroy(spec.guest_id)
        assert (await infrastructure.inspect(spec.guest_id)).state == GuestState.STOPPED
        await infrastructure.delete(spec.guest_id)
        assert (await infrastructure.inspect(spec.guest_id)).state == GuestState.ABSENT
        assert spec.guest_id not in [g.guest_id for g in await infrastructure.list_guests()]

    async def test_everything_may_be_asked_twice_and_of_nobody(
        self, infrastructure: Infrastructure, make_spec: MakeSpec
    ) -> None:
        guest_id = make_spec("nobody").guest_id
        for _ in range(2):
            await infrastructure.stop(guest_id, timeout=1)
            await infrastructure.destroy(guest_id)
            await infrastructure.delete(guest_id)
        assert await infrastructure.check(guest_id, timeout=2) in (Vitality.GONE, Vitality.UNKNOWN)
        assert await infrastructure.console(guest_id) == b""
        if Capability.EXECUTE in infrastructure.capabilities:
            with pytest.raises(InfrastructureError):
                await infrastructure.execute(guest_id, ["true"])

    async def test_death_is_noticed(self, infrastructure: Infrastructure, make_spec: MakeSpec) -> None:
        spec = make_spec("death")
        async with watching(infrastructure) as events:
            began = time.monotonic()
            await infrastructure.start(spec)
            await events.until(spec.guest_id, GuestState.RUNNING, since=began)
            killed = time.monotonic()
            await self.kill(infrastructure, spec.guest_id)
            await events.until(spec.guest_id, GuestState.STOPPED, since=killed)
            await infrastructure.start(spec)
            assert (await infrastructure.inspect(spec.guest_id)).state == GuestState.RUNNING
            await infrastructure.delete(spec.guest_id)

    async def test_another_digest_makes_the_guest_anew(
        self, infrastructure: Infrastructure, make_spec: MakeSpec
    ) -> None:
        import msgspec

        spec = make_spec("digest")
        first = await infrastructure.start(spec)
        second = await infrastructure.start(msgspec.structs.replace(spec, digest=spec.digest + "2"))
        assert second.boot_id != first.boot_id
        assert second.digest == spec.digest + "2"
        await infrastructure.delete(spec.guest_id)

    async def test_commands(self, infrastructure: Infrastructure, make_spec: MakeSpec) -> None:
        if Capability.EXECUTE not in infrastructure.capabilities:
            pytest.skip("no commands in guests here")
        spec = make_spec("commands")
        await infrastructure.start(spec)
        run = infrastructure.execute
        result = await run(spec.guest_id, ["sh", "-c", "cat; echo $0 >&2; exit 3", "; rm -rf /"], stdin=b"in\0put")
        assert (result.returncode, result.stdout, result.stderr) == (3, b"in\0put", b"; rm -rf /\n")
        big = await run(spec.guest_id, ["head", "-c", "5000000", "/dev/zero"])
        assert (big.returncode, len(big.stdout)) == (0, 1024 * 1024)
        with pytest.raises(InfrastructureError):
            await run(spec.guest_id, ["sleep", "1234"], timeout=0.5)  # the other end of it: twenty minutes

        async def sleeper_gone() -> bool:
            ps = await run(spec.guest_id, ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])
            return b"sleep 1234 " not in ps.stdout.replace(b"tr \\0", b"")

        await poll(sleeper_gone)
        with pytest.raises(InfrastructureError):
            await run(spec.guest_id, ["a\0b"])
        assert (await run(spec.guest_id, ["/no/such/program"])).returncode != 0
        await infrastructure.delete(spec.guest_id)

    async def test_a_frozen_guest_is_hung_and_can_be_destroyed(
        self, infrastructure: Infrastructure, make_spec: MakeSpec
    ) -> None:
        if Capability.SECOND_SIGNAL not in infrastructure.capabilities:
            pytest.skip("no second signal here")
        spec = make_spec("frozen")
        await infrastructure.start(spec)
        async with asyncio.timeout(600):  # a machine boots before anything in it can answer
            while await infrastructure.check(spec.guest_id, timeout=10) != Vitality.ALIVE:
                await asyncio.sleep(0.1)
        await self.freeze(infrastructure, spec.guest_id)
        assert await verdict(infrastructure, spec.guest_id) == Vitality.HUNG
        assert (await infrastructure.inspect(spec.guest_id)).state == GuestState.RUNNING
        await infrastructure.destroy(spec.guest_id)
        assert (await infrastructure.inspect(spec.guest_id)).state == GuestState.STOPPED
        assert await verdict(infrastructure, spec.guest_id) == Vitality.GONE
        await infrastructure.delete(spec.guest_id)

    async def test_a_second_driver_adopts_what_runs(self, infrastructure: Infrastructure, make_spec: MakeSpec) -> None:
        second = self.reopen(infrastructure)
        spec = make_spec("adopted")
        try:
            first = await infrastructure.start(spec)
            assert (await second.start(spec)).boot_id == first.boot_id
            async with watching(second) as events:
                began = time.monotonic()
                later = make_spec("later")
                await infrastructure.start(later)
                await events.until(later.guest_id, GuestState.RUNNING, since=began)
                killed = time.monotonic()
                await self.kill(infrastructure, spec.guest_id)
                await events.until(spec.guest_id, GuestState.STOPPED, since=killed)
            for each in (spec, later):
                await second.delete(each.guest_id)
                assert (await infrastructure.inspect(each.guest_id)).state == GuestState.ABSENT
        finally:
            await second.close()

    async def test_addresses_are_kept_for_their_holders(self, infrastructure: Infrastructure) -> None:
        changed = {Capability.FIREWALL, Capability.ADDRESSES} & infrastructure.capabilities
        assert isinstance(infrastructure, HasChanges) == bool(changed)
        if Capability.NETWORK not in infrastructure.capabilities:
            pytest.skip("this host has no address in the guests' network here")
        assert isinstance(infrastructure, HasNetwork)
        network, one, other = infrastructure.network, "_address.one", "_address.other"
        assert not await network.holds(one)
        first, second = await network.take(one), await network.take(other)
        host = ipaddress.ip_address(await network.host())
        taken = [ipaddress.ip_interface(each) for each in (first, second)]
        assert len({host, *(each.ip for each in taken)}) == 3
        assert all(host in each.network for each in taken)
        assert await network.take(one) == first, "the same for the same holder"
        assert await network.holds(one)
        for _ in range(2):
            await network.give_back(one)
        assert not await network.holds(one)
        assert await network.holds(other), "it stays while somebody has an address"
        await network.give_back(other)

    async def test_volumes_outlive_their_guests_and_have_one_at_a_time(
        self, infrastructure: Infrastructure, make_spec: MakeSpec
    ) -> None:
        if Capability.VOLUMES not in infrastructure.capabilities:
            pytest.skip("no volumes here")
        assert isinstance(infrastructure, HasVolumes)
        volumes, size = infrastructure.volumes, 4 << 20
        data = AttachedVolume(volume="contract-data", device="/dev/vdc")
        await volumes.delete(data.volume)  # none is there: no error
        for _ in range(2):
            await volumes.create(data.volume, size)
        with pytest.raises(InfrastructureError):
            await volumes.create(data.volume, size - (1 << 20))
        assert await volumes.holder(data.volume) == (True, "")
        spec = msgspec.structs.replace(make_spec("holds"), volumes=(data,))
        other = msgspec.structs.replace(make_spec("wants"), volumes=(data,))
        await volumes.attach(spec.guest_id, [data])  # not there yet: it gets it when it starts
        assert await volumes.holder(data.volume) == (True, "")
        await infrastructure.start(spec)
        assert await volumes.holder(data.volume) == (True, spec.guest_id)
        for refused in (infrastructure.start(other), volumes.delete(data.volume)):
            with pytest.raises(InfrastructureError):
                await refused
        await infrastructure.destroy(spec.guest_id)
        assert await volumes.holder(data.volume) == (True, spec.guest_id), "its next start has it again"
        await infrastructure.start(msgspec.structs.replace(spec, volumes=()))
        assert await volumes.holder(data.volume) == (True, "")
        await volumes.attach(spec.guest_id, [data])
        assert await volumes.holder(data.volume) == (True, spec.guest_id)
        await infrastructure.delete(spec.guest_id)
        await infrastructure.delete(other.guest_id)
        assert await volumes.holder(data.volume) == (True, "")
        await volumes.delete(data.volume)
        assert await volumes.holder(data.volume) == (False, "")

    async def test_many_at_once(self, infrastructure: Infrastructure, make_spec: MakeSpec) -> None:
        specs = [make_spec(f"many{i}") for i in range(self.many)]
        infos = await asyncio.gather(*(infrastructure.start(spec) for spec in specs))
        assert len({info.address for info in infos}) == len(specs)
        await asyncio.gather(*(infrastructure.delete(spec.guest_id) for spec in specs))
        assert not {s.guest_id for s in specs} & {g.guest_id for g in await infrastructure.list_guests()}

    many = 5
