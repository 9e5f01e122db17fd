"""The simulator does what every infrastructure and every transport must do: tests on it say something of the real ones."""

from __future__ import annotations

import pytest

from pcloud.environment.infrastructure import GuestSpec, Identity, Image, Infrastructure
from pcloud.environment.transport import Endpoint, Operation
from pcloud.simulator.infrastructure import SimulatedInfrastructure
from pcloud.simulator.transport import SimulatedTransport
from pcloud.simulator.world import World
from tests.infrastructure.contract import InfrastructureContract
from tests.transport.contract import TransportContract


def spec(name: str) -> GuestSpec:
    return GuestSpec(
        guest_id=f"shop.{name}",
        deployable="shop",
        assembly=name,
        image=Image(name="none", digest="i1"),
        identity=Identity(hostname=name),
        digest="d1",
    )


class TestInfrastructure(InfrastructureContract):
    """What every infrastructure must do."""

    @pytest.fixture
    def world(self):
        return World(places=("here", "there"), boot_seconds=0.02, action_seconds=0.01)

    @pytest.fixture
    async def infrastructure(self, world):
        return SimulatedInfrastructure(world)

    @pytest.fixture
    def make_spec(self):
        return spec

    @pytest.fixture(autouse=True)
    def _keep(self, world):
        self.world = world

    async def kill(self, infrastructure: Infrastructure, guest_id: str) -> None:
        self.world.kill_guest(guest_id)

    async def freeze(self, infrastructure: Infrastructure, guest_id: str) -> None:
        self.world.freeze(guest_id)

    def reopen(self, infrastructure: Infrastructure) -> Infrastructure:
        return SimulatedInfrastructure(self.world)

    async def test_commands(self, infrastructure: Infrastructure, make_spec) -> None:  # type: ignore[override]
        """Nothing executes in a simulated guest: what was asked comes back, from guests that run."""
        await infrastructure.start(make_spec("commands"))
        result = await infrastructure.execute("shop.commands", ["echo", "a b"])
        assert (result.returncode, result.stdout) == (0, b"echo a b")


class Peer:
    """A simulated guest and its one service."""

    def __init__(self) -> None:
        self.world = World(boot_seconds=0.01, action_seconds=0.01)
        self.transport = SimulatedTransport(self.world)

    def impatient(self) -> None:
        """The simulated transport always is."""

    async def connect(self, on_result, on_lost):
        await SimulatedInfrastructure(self.world).start(spec("web"))
        endpoint = Endpoint(guest_id="shop.web", address="10.0.0.2", port=3121)
        return await self.transport.connect(endpoint, on_result=on_result, on_lost=on_lost, timeout=60.0)

    def operation(self, action: str, **changes) -> Operation:
        if action == "slow":
            self.world.hanging.add(("rsc_web_httpd", "monitor"))
            action = "monitor"
        values = {"resource": "rsc_web_httpd", "resource_class": "systemd", "type": "httpd", "timeout": 5.0}
        if changes.get("type"):
            self.world.results["rsc_web_httpd", action] = [5]  # simulated guests lack an agent when they are told to
        return Operation(action=action, **(values | changes))

    def kill_service(self) -> None:
        self.world.kill_service("shop.web", "rsc_web_httpd")

    def silence(self) -> None:
        self.world.freeze("shop.web")

    def drop(self) -> None:
        self.world.cut_off("shop.web")


class TestTransport(TransportContract):
    """What every transport must do."""

    @pytest.fixture
    async def peer(self):
        it = Peer()
        yield it
        await it.transport.close()
