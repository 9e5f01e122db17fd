"""Images and guests together: each kind of agent, each Debian, as a real guest that boots and answers."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from pcloud.environment.infrastructure import GuestSpec, Infrastructure
from pcloud.images.assembly import AssemblyImageSpec
from pcloud.images.identity import make_identity
from pcloud.images.payload import UNIT
from pcloud.images.store import ImageStore
from pcloud.infrastructure.registry import open_infrastructure
from pcloud.model.errors import InvalidDocument, NotFound, Unavailable
from tests.infrastructure.contract import poll

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run LXC guests"),
    pytest.mark.skipif(shutil.which("lxc-start") is None, reason="lxc-start is not installed (package lxc)"),
    pytest.mark.timeout(900),
]


@pytest.fixture
async def lxc(tmp_path: Path) -> AsyncIterator[Infrastructure]:
    driver = open_infrastructure("lxc", {"parallel": 2}, state=tmp_path / "lxc")
    yield driver
    for info in await driver.list_guests():
        await driver.delete(info.guest_id)
    await driver.close()


@pytest.mark.parametrize(
    ("jeos", "agent", "unit"),
    [("bookworm", "pcloud", UNIT), ("bookworm", "pacemaker", "pacemaker_remote.service"), ("trixie", "pcloud", UNIT)],
)
async def test_a_guest_boots_with_its_agent_and_opens_to_its_key_alone(
    lxc: Infrastructure, jeos: str, agent: str, unit: str
) -> None:
    try:
        image = await ImageStore().build_assembly(AssemblyImageSpec(jeos=jeos, agent=agent))
    except Unavailable as error:
        pytest.skip(str(error))
    material = make_identity("agent")
    guest_id = "images-test.agent"
    info = await lxc.start(
        GuestSpec(
            guest_id=guest_id,
            deployable="images-test",
            assembly="agent",
            image=image,
            identity=material.identity,
            digest="1",
        )
    )

    async def booted() -> bool:
        result = await lxc.execute(guest_id, ["systemctl", "is-system-running"])
        return result.stdout.strip() in (b"running", b"degraded")

    await poll(booted)
    failed = await lxc.execute(guest_id, ["systemctl", "--failed", "--no-legend", "--plain"])
    assert failed.stdout == b""
    state = await lxc.execute(guest_id, ["systemctl", "is-active", unit])
    assert state.stdout.strip() == b"active"

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection(info.address, 3121)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    await poll(listens)
    known = asyncssh.import_known_hosts(f"{info.address} {material.host_key}\n")
    key = asyncssh.import_private_key(material.private_key)
    async with asyncssh.connect(info.address, username="root", client_keys=[key], known_hosts=known) as connection:
        assert (await connection.run("hostname")).stdout == "agent\n"
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(
            info.address,
            username="root",
            known_hosts=known,
            client_keys=[asyncssh.import_private_key(make_identity("agent").private_key)],
        )


def test_registry_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="UNKNOWN_INFRASTRUCTURE"):
        open_infrastructure("deltacloud", {}, state=tmp_path)
    for settings in ({"brige": "x"}, {"bridge": "much-too-long-a-name"}, {"subnet": "10.0.0.0/30"}, {"parallel": 0}):
        with pytest.raises(InvalidDocument, match="INVALID_SETTING"):
            open_infrastructure("lxc", settings, state=tmp_path)
