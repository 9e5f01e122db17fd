"""What changes a running LXC guest from outside, on a host that is too busy for it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

import pytest

from pcloud.environment.infrastructure import ExecResult, InfrastructureError
from pcloud.infrastructure import lxc_live
from pcloud.infrastructure.lxc_network import Network
from pcloud.model.deployable import Assembly

NETWORK = Network(bridge="none", subnet="10.88.0.0/16")


async def test_a_command_that_does_not_end_is_an_error_of_the_infrastructure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who call are ready for that one, and for no other."""
    slow: list[str] = []

    async def run(words: Sequence[str], *, timeout: float) -> ExecResult:
        if words[0] in slow:
            raise TimeoutError
        return ExecResult(returncode=0, stdout=b"1\n")

    monkeypatch.setattr(lxc_live, "run", run)
    folder = tmp_path / "guests/shop.web"
    assert await lxc_live.init_of(folder) == 1
    for program in ("nsenter", "lxc-info"):
        slow.append(program)
        with pytest.raises(InfrastructureError, match=f"{program} did not end"):
            await lxc_live.settle(folder, Assembly(name="web", addresses=(f"{ipaddress.ip_address(1)}/32",)), NETWORK)
