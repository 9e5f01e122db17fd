"""Rules that name groups of real LXC guests, and the sets behind them in networks of the test's own."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pcloud.environment.infrastructure import GuestSpec, Image
from pcloud.images.identity import make_identity
from pcloud.images.store import ImageStore
from pcloud.infrastructure import lxc_firewall, lxc_live, lxc_process
from pcloud.infrastructure.lxc import LxcInfrastructure
from pcloud.infrastructure.lxc_groups import LOADED, Groups, set_name
from pcloud.infrastructure.lxc_network import Leases
from pcloud.infrastructure.lxc_settings import LxcSettings
from pcloud.model.deployable import Assembly, FirewallRule

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run LXC guests"),
    pytest.mark.skipif(shutil.which("lxc-start") is None, reason="lxc-start is not installed (package lxc)"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed (package nftables)"),
    pytest.mark.timeout(1800),
]
GATEWAY = ipaddress.IPv4Address("192.0.2.1")
FROM_WEB = (FirewallRule(protocol="tcp", first=3306, last=3306, group="web"),)


def members(pid: int, group: str) -> set[str]:
    """Whom the rules of a process's network mean by a group."""
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "-j", "list", "set", "inet", "pcloud", set_name(group)],
        capture_output=True, check=True,
    )  # fmt: skip
    (found,) = [each["set"] for each in json.loads(done.stdout)["nftables"] if "set" in each]
    return set(found.get("elem", ()))


# --- guests


@pytest.fixture(scope="module")
def image() -> Image:
    """The JEOS, built once for all runs on this machine."""
    return asyncio.run(ImageStore().build_jeos("bookworm", "x86_64"))


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[LxcInfrastructure]:
    driver = LxcInfrastructure(LxcSettings(state=str(tmp_path / "lxc")))
    yield driver
    for info in await driver.list_guests():
        await driver.delete(info.guest_id)
    await driver.close()
    assert not (tmp_path / "lxc/groups").exists()


def spec(image: Image, name: str, **more: object) -> GuestSpec:
    return GuestSpec(
        guest_id=f"shop.{name}", deployable="shop", assembly=name, image=image,
        identity=make_identity(name).identity, digest="1", **more,  # type: ignore[arg-type]
    )  # fmt: skip


async def reaches(driver: LxcInfrastructure, guest: str, address: str, seconds: int = 2) -> bool:
    """Tell whether a guest reaches the port."""
    words = ["timeout", str(seconds), "bash", "-c", f"exec 3<>/dev/tcp/{address}/3306"]
    return (await driver.execute(f"shop.{guest}", words)).returncode == 0


async def until_reached(driver: LxcInfrastructure, guest: str, address: str) -> None:
    """Wait until a guest reaches the port."""
    deadline = asyncio.get_running_loop().time() + 300
    while not await reaches(driver, guest, address, 20):
        assert asyncio.get_running_loop().time() < deadline, f"{guest} does not reach it"
        await asyncio.sleep(0.05)


async def test_a_rule_follows_the_members(driver: LxcInfrastructure, image: Image, tmp_path: Path) -> None:
    """Members of the group get in and nobody else does, at whatever addresses, from before their first packet on."""
    state = tmp_path / "lxc"
    web = spec(image, "web", groups=("web", "others"))
    database = await driver.start(spec(image, "db", firewall=FROM_WEB))
    first = await driver.start(web)
    await driver.start(spec(image, "stranger"))
    serve = "import socket\ns = socket.create_server(('', 3306))\nwhile True: s.accept()[0].close()"
    unit = ["systemd-run", "python3", "-c", serve]
    deadline = asyncio.get_running_loop().time() + 300
    while (await driver.execute("shop.db", unit)).returncode:  # its systemd is just coming up
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)
    await until_reached(driver, "web", database.address)
    assert not await reaches(driver, "stranger", database.address)

    init = await lxc_live.init_of(state / "guests/shop.db")
    assert init is not None
    assert members(init, "web") == {first.address}

    # Another joins and gets a further address while it runs; then it leaves.
    network = driver._bridge.read()
    assert network is not None
    folder = state / "guests/shop.stranger"
    wanted = Assembly(name="stranger", groups=("web",), addresses=("10.1.2.3/32",))
    await lxc_live.settle(folder, wanted, network)
    stranger = (await driver.inspect("shop.stranger")).address
    assert members(init, "web") == {first.address, stranger, "10.1.2.3"}
    await until_reached(driver, "stranger", database.address)
    await lxc_live.settle(folder, Assembly(name="stranger"), network)
    assert members(init, "web") == {first.address}
    assert not await reaches(driver, "stranger", database.address)

    # One that is gone is no member, and comes back elsewhere.
    await driver.delete("shop.web")
    assert members(init, "web") == set()
    index = int(ipaddress.IPv4Address(first.address)) - int(network.network[0])
    (state / "leases" / str(index)).symlink_to("_somebody")
    again = await driver.start(web)
    assert again.address != first.address
    assert members(init, "web") == {again.address}
    await until_reached(driver, "web", database.address)

    # The rules of the one that is protected are there again when it is.
    await driver.stop("shop.db", timeout=30)
    await driver.start(spec(image, "db", firewall=FROM_WEB))
    init = await lxc_live.init_of(state / "guests/shop.db")
    assert init is not None
    assert members(init, "web") == {again.address}
    Leases(state).release("_somebody")


# --- networks without guests


Follower = Callable[[str], int]


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    """Makes a network whose rules name the group `web`, as a running guest's; returns the process that has it."""
    running: list[subprocess.Popen[bytes]] = []

    def make(name: str) -> int:
        process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 7200"], stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None
        process.stdout.readline()  # it is in its own network
        folder = tmp_path / "guests" / name
        folder.mkdir(parents=True)
        asyncio.run(lxc_firewall.apply(folder, FROM_WEB, GATEWAY, Groups(tmp_path), process.pid))
        return process.pid

    yield make
    for process in running:
        process.kill()
        process.communicate()


def test_many_join_and_leave_at_once(tmp_path: Path, follower: Follower) -> None:
    """Whatever order it happens in, every set holds who is a member at the end."""
    followers = [follower(f"f{number}") for number in range(3)]
    groups = Groups(tmp_path)

    def live(number: int) -> None:
        groups.join(f"m{number}", ["web"], [f"10.0.0.{number}/16", f"10.0.1.{number}/16"])
        if number % 2:
            groups.forget(f"m{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(1, 21)))
    wanted = {f"10.0.{part}.{number}" for part in (0, 1) for number in range(2, 21, 2)}
    assert [members(pid, "web") for pid in followers] == [wanted] * 3
    for number in range(1, 21):
        groups.forget(f"m{number}")
    assert [members(pid, "web") for pid in followers] == [set()] * 3
    for number in range(3):
        groups.forget(f"f{number}")
    assert not (tmp_path / "groups").exists()


class Dying(Groups):
    """Dies when followers are to be told."""

    def _tell(self, group: Path) -> None:
        os._exit(9)


def test_a_crash_before_followers_are_told_is_made_good(tmp_path: Path, follower: Follower) -> None:
    """By the same call again, though the member's own file says what it shall say; and by anybody else's."""
    pid = follower("f")
    for again, member, wanted in (("m", "m", {"10.0.0.1"}), ("n", "o", {"10.0.0.1", "10.0.0.2"})):
        address = f"10.0.0.{len(wanted)}"
        process = multiprocessing.get_context("fork").Process(
            target=Dying(tmp_path).join, args=(again, ["web"], [address])
        )
        process.start()
        process.join()
        assert process.exitcode == 9
        assert members(pid, "web") != wanted
        Groups(tmp_path).join(member, ["web"] if member == "m" else (), [address])
        assert members(pid, "web") == wanted


def test_a_guest_that_changed_its_own_rules_keeps_nobody_out(tmp_path: Path, follower: Follower) -> None:
    """Its rules are put back; one whose network takes none does not stop others from joining."""
    changed, other = follower("changed"), follower("other")
    inside = ["nsenter", f"--net=/proc/{changed}/ns/net", "nft"]
    subprocess.run([*inside, "delete", "table", "inet", "pcloud"], check=True)
    Groups(tmp_path).join("m", ["web"], ["10.0.0.1"])
    assert members(changed, "web") == members(other, "web") == {"10.0.0.1"}
    subprocess.run([*inside, "delete", "table", "inet", "pcloud"], check=True)
    (tmp_path / "guests/changed/firewall.nft").write_text("nonsense")
    Groups(tmp_path).join("n", ["web"], ["10.0.0.2"])
    assert members(other, "web") == {"10.0.0.1", "10.0.0.2"}


def test_a_process_id_that_was_used_again_is_no_guest(tmp_path: Path, follower: Follower) -> None:
    """A guest that ended without our seeing it leaves its process id behind; what has it now is left alone."""
    pid = follower("f")
    process = lxc_process.find_process(pid)
    assert process is not None
    (tmp_path / "guests/f" / LOADED).write_text(f"{pid} {process.start + 1}")
    Groups(tmp_path).join("m", ["web"], ["10.0.0.1"])
    assert members(pid, "web") == set()
