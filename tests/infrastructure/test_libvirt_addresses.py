"""Further addresses of a machine that runs: the commands in it, and what a guest says that tells lies."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence

import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

from pcloud.environment.infrastructure import ExecResult, InfrastructureError
from pcloud.infrastructure import libvirt_guest_network as module
from pcloud.infrastructure import libvirt_xml as xml


class Network(module.LibvirtGuestNetwork):
    """One whose libvirt is never asked."""

    def __init__(self) -> None:
        pass

    async def _view(self) -> xml.NetworkView:
        return xml.NetworkView(gateway="10.120.0.1", prefix=16, leases={})


class Guest:
    """Says what it is told to, and notes what it is asked."""

    def __init__(self, says: bytes, returncode: int = 0) -> None:
        self.says, self.returncode = says, returncode
        self.asked: list[str] = []

    async def run(self, argv: Sequence[str]) -> ExecResult:
        self.asked.append(" ".join(argv))
        return ExecResult(returncode=self.returncode, stdout=self.says)


def says(*addresses: str) -> bytes:
    found = [ipaddress.IPv4Interface(each) for each in addresses]
    return json.dumps([{"addr_info": [{"local": str(f.ip), "prefixlen": f.network.prefixlen} for f in found]}]).encode()


async def test_what_is_missing_is_added_and_what_is_too_much_taken_off():
    guest = Guest(says("10.120.0.5/16", "10.120.0.8/16", "192.168.7.1/24"))
    await Network()._addresses("10.120.0.5", ["10.120.0.9/16"], guest.run)
    assert guest.asked[1:] == ["ip addr add 10.120.0.9/16 dev eth0", "ip addr del 10.120.0.8/16 dev eth0"]


async def test_nothing_is_done_to_a_guest_that_has_them():
    guest = Guest(says("10.120.0.5/16", "10.120.0.9/16"))
    await Network()._addresses("10.120.0.5", ["10.120.0.9/16"], guest.run)
    assert len(guest.asked) == 1


@pytest.mark.parametrize(
    "said",
    [b"", b"{", b"[[]]", b'[{"addr_info": [{"local": "x", "prefixlen": 8}]}]', b'[{"addr_info": [{"local": 7}]}]'],
)
async def test_a_guest_that_lies_is_an_error_of_the_infrastructure(said):
    with pytest.raises(InfrastructureError, match="does not tell its addresses"):
        await Network()._addresses("10.120.0.5", ["10.120.0.9/16"], Guest(said).run)


async def test_a_command_that_fails_is_told():
    with pytest.raises(InfrastructureError, match="ip: "):
        await Network()._addresses("10.120.0.5", [], Guest(b"", returncode=1).run)
