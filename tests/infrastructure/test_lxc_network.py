"""The guests' own networks of LXC: those of several state folders on one host."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from pcloud.infrastructure import lxc_network
from pcloud.infrastructure.lxc_network import Bridge, Leases
from pcloud.infrastructure.lxc_settings import LxcSettings

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make networks"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed (package iproute2)"),
]


async def test_state_folders_that_begin_at_once_have_networks_of_their_own(tmp_path: Path) -> None:
    """Each chooses what is free; what another has chosen is not, though it is not there yet."""
    states = [tmp_path / f"state{number}" for number in range(5)]
    bridges = [Bridge(LxcSettings(state=str(state)), Leases(state)) for state in states]
    try:
        made = await asyncio.gather(*(bridge.ensure() for bridge in bridges))
        assert len({network.bridge for network in made}) == len(bridges)
        assert len({network.subnet for network in made}) == len(bridges)
        assert [bridge.read() for bridge in bridges] == made
        assert all(bridge._is_ours(network.bridge) for bridge, network in zip(bridges, made, strict=True))
    finally:
        for bridge in bridges:
            await bridge.remove_unused()
    # Others may have taken their names by now.
    assert not any(bridge._is_ours(network.bridge) for bridge, network in zip(bridges, made, strict=True))


async def test_one_who_was_stopped_as_he_made_his_network_stops_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lxc_network, "_PATIENCE", 0.2)
    bridge = Bridge(LxcSettings(state=str(tmp_path)), Leases(tmp_path))
    with Path("/proc/self/ns/net").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            assert (await bridge.ensure()).bridge
        finally:
            await bridge.remove_unused()
