"""The driver of hosts that are there already, on containers that stand for physical machines, and their fence agent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pcloud.environment.infrastructure import (
    GuestSpec,
    GuestState,
    Image,
    Infrastructure,
    InfrastructureError,
    Vitality,
)
from pcloud.images.identity import make_identity
from pcloud.infrastructure.hosts import HostsInfrastructure
from pcloud.infrastructure.hosts_settings import hosts_settings
from tests.guests import BOOT
from tests.infrastructure.contract import InfrastructureContract, MakeSpec, poll, verdict
from tests.infrastructure.physical import NEEDED, PASSWORD, PhysicalHost

pytestmark = [
    *NEEDED,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PhysicalHost]]:
    """Two physical hosts."""
    folder = tmp_path_factory.mktemp("hosts")
    made = {name: PhysicalHost(folder / name) for name in ("alpha", "beta")}
    try:
        for each in made.values():
            each.start()
        yield made
    finally:
        for each in made.values():
            each.stop()


def opened(machines: dict[str, PhysicalHost], state: Path) -> HostsInfrastructure:
    table = {"poll": 0.2, "host": {name: each.settings() for name, each in machines.items()}}
    return HostsInfrastructure(hosts_settings(table, str(state)))


@pytest.fixture
async def infrastructure(machines: dict[str, PhysicalHost], tmp_path: Path) -> AsyncIterator[HostsInfrastructure]:
    """A driver with a state folder of its own."""
    driver = opened(machines, tmp_path)
    yield driver
    for info in await driver.list_guests():
        await driver.delete(info.guest_id)
    await driver.close()


@pytest.fixture
def make_spec() -> MakeSpec:
    def make(name: str) -> GuestSpec:
        host = "beta" if name in ("later", "many1") else "alpha"
        return GuestSpec(
            guest_id=f"hosted.{name}",
            deployable="hosted",
            assembly=name,
            image=Image(name=host, digest=f"host-{host}"),
            identity=make_identity(name).identity,
            host=host,
            digest="1",
            start_timeout=300.0,
        )

    return make


class TestContract(InfrastructureContract):
    many = 2

    @pytest.fixture(autouse=True)
    def _known(self, machines: dict[str, PhysicalHost]) -> None:
        self.machines = machines

    async def kill(self, infrastructure: Infrastructure, guest_id: str) -> None:
        self.machines["alpha"].kill()

    async def freeze(self, infrastructure: Infrastructure, guest_id: str) -> None:
        self.machines["alpha"].freeze()

    def reopen(self, infrastructure: Infrastructure) -> Infrastructure:
        assert isinstance(infrastructure, HostsInfrastructure)
        return HostsInfrastructure(infrastructure._settings)


def changed(driver: HostsInfrastructure, host: str, **changes: Any) -> HostsInfrastructure:
    """Open another driver on the same state, with other settings of a host."""
    settings = driver._settings
    other = msgspec.structs.replace(settings.host[host], **changes)
    return HostsInfrastructure(msgspec.structs.replace(settings, host={**settings.host, host: other}))


@pytest.fixture
def alpha(machines: dict[str, PhysicalHost]) -> PhysicalHost:
    """A host that is on."""
    machines["alpha"].switch_on()
    return machines["alpha"]


async def test_a_stop_leaves_the_host_on_unless_told(
    infrastructure: HostsInfrastructure, make_spec: MakeSpec, alpha: PhysicalHost
) -> None:
    spec, done = make_spec("power"), len(alpha.actions())
    await infrastructure.start(spec)
    await infrastructure.stop(spec.guest_id, timeout=300)
    assert (await infrastructure.inspect(spec.guest_id)).state is GuestState.STOPPED
    assert (alpha.state(), alpha.actions()[done:]) == ("RUNNING", [])
    managed = changed(infrastructure, "alpha", power="managed")
    await managed.start(spec)
    await managed.stop(spec.guest_id, timeout=300)
    assert (alpha.state(), alpha.actions()[done:]) == ("STOPPED", []), "it was shut down, not cut off"
    await managed.start(spec)
    assert (alpha.state(), alpha.actions()[done:]) == ("RUNNING", ["on"])


async def test_what_can_not_be_fenced_is_never_declared_dead(
    infrastructure: HostsInfrastructure, make_spec: MakeSpec, alpha: PhysicalHost
) -> None:
    driver, spec = changed(infrastructure, "alpha", fence=None, unfenced=True), make_spec("unfenced")
    await driver.start(spec)
    assert await verdict(driver, spec.guest_id) is Vitality.ALIVE
    alpha.freeze()
    assert await driver.check(spec.guest_id, timeout=5) is Vitality.UNKNOWN
    with pytest.raises(InfrastructureError, match="can not be confirmed"):
        await driver.destroy(spec.guest_id)
    assert (await driver.inspect(spec.guest_id)).state is GuestState.RUNNING
    assert alpha.state() == "FROZEN"
    alpha.kill()
    with pytest.raises(InfrastructureError, match="can not be confirmed"):
        await driver.destroy(spec.guest_id)
    alpha.switch_on()

    async def proved() -> bool:
        with contextlib.suppress(InfrastructureError):  # it can not be entered yet
            await driver.destroy(spec.guest_id)
        return (await driver.inspect(spec.guest_id)).state is GuestState.STOPPED

    await poll(proved)  # another boot: nothing of before runs
    assert (await driver.start(spec)).state is GuestState.RUNNING


async def test_a_device_that_does_not_answer_proves_nothing(
    infrastructure: HostsInfrastructure, make_spec: MakeSpec, alpha: PhysicalHost
) -> None:
    spec = make_spec("deaf")
    await infrastructure.start(spec)
    alpha.freeze()
    alpha.fail.touch()
    try:
        assert await infrastructure.check(spec.guest_id, timeout=5) is Vitality.UNKNOWN
        assert (await infrastructure.inspect(spec.guest_id)).state is GuestState.RUNNING
        for asked in (infrastructure.destroy(spec.guest_id), infrastructure.start(spec)):
            with pytest.raises(InfrastructureError) as caught:
                await asked
            assert PASSWORD not in str(caught.value)
        assert alpha.state() == "FROZEN"
    finally:
        alpha.fail.unlink()
    await infrastructure.destroy(spec.guest_id)
    assert alpha.state() == "STOPPED"


async def test_isolation_by_reboot(
    infrastructure: HostsInfrastructure, make_spec: MakeSpec, alpha: PhysicalHost
) -> None:
    fence = infrastructure._settings.host["alpha"].fence
    assert fence is not None
    driver = changed(infrastructure, "alpha", fence=msgspec.structs.replace(fence, isolation="reboot"))
    spec, done = make_spec("reboot"), len(alpha.actions())
    first = await driver.start(spec)
    before = alpha.run(*BOOT)
    await driver.destroy(spec.guest_id)
    assert (await driver.inspect(spec.guest_id)).state is GuestState.STOPPED
    again = await driver.start(spec)
    assert again.boot_id != first.boot_id
    assert alpha.run(*BOOT) != before
    assert alpha.actions()[done:] == ["reboot"]


async def test_a_host_has_one_guest(
    infrastructure: HostsInfrastructure, make_spec: MakeSpec, alpha: PhysicalHost
) -> None:
    spec = make_spec("owner")
    first = await infrastructure.start(spec)
    thief = msgspec.structs.replace(spec, guest_id="thieves.one", deployable="thieves")
    with pytest.raises(InfrastructureError, match=r"in use by hosted\.owner") as caught:
        await infrastructure.start(thief)
    assert caught.value.permanent
    await infrastructure.destroy(thief.guest_id)
    await infrastructure.delete(thief.guest_id)
    assert await infrastructure.inspect(spec.guest_id) == first
    await infrastructure.stop(spec.guest_id, timeout=60)
    with pytest.raises(InfrastructureError):
        await infrastructure.start(thief)
    await infrastructure.delete(spec.guest_id)
    assert (await infrastructure.start(thief)).state is GuestState.RUNNING


async def test_a_host_that_is_not_the_one_that_was_pinned(
    infrastructure: HostsInfrastructure, make_spec: MakeSpec, alpha: PhysicalHost
) -> None:
    other, done = make_identity("other"), alpha.actions()
    with pytest.raises(InfrastructureError, match=r"[Vv]erification failed") as caught:
        await changed(infrastructure, "alpha", host_key=other.host_key).start(make_spec("pinned"))
    assert caught.value.permanent
    assert alpha.actions() == done, "nothing was switched for it"


async def test_a_host_that_was_taken_out_of_the_configuration_is_given_up(
    infrastructure: HostsInfrastructure, make_spec: MakeSpec, alpha: PhysicalHost
) -> None:
    spec, settings, done = make_spec("taken"), infrastructure._settings, alpha.actions()
    await infrastructure.start(spec)
    driver = HostsInfrastructure(msgspec.structs.replace(settings, host={"beta": settings.host["beta"]}))
    assert (await driver.inspect(spec.guest_id)).state is GuestState.STOPPED
    with pytest.raises(InfrastructureError, match="no host 'alpha'"):
        await driver.start(spec)
    await driver.destroy(spec.guest_id)
    await driver.delete(spec.guest_id)
    assert (alpha.state(), alpha.actions()) == ("RUNNING", done)


async def test_another_host_for_the_same_guest(
    infrastructure: HostsInfrastructure, make_spec: MakeSpec, alpha: PhysicalHost, machines: dict[str, PhysicalHost]
) -> None:
    spec = make_spec("moves")
    await infrastructure.start(spec)
    await infrastructure.stop(spec.guest_id, timeout=60)
    moved = msgspec.structs.replace(spec, host="beta", digest="2")
    assert (await infrastructure.start(moved)).address == machines["beta"].address
    assert [info.guest_id for info in await infrastructure.list_guests()] == [spec.guest_id]
    assert alpha.state() == "RUNNING"
