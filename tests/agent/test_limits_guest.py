"""Limits of services in a guest with full systemd, by our agent and by what is run over ssh: what the kernel then has."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pcloud.agent import bounds
from pcloud.environment.transport import Operation, OperationResult
from pcloud.model.deployable import NO_LIMITS, ResourceLimits
from pcloud.transport import ssh_commands
from tests.guests import Guest
from tests.transport.client import connected

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

MIB = 1 << 20
OWN = 900
"""MiB that the unit's own file allows."""
EATER = """#!/bin/sh
x=$(head -c 30000000 /dev/zero | tr '\\0' x)
touch /run/eaten
while :; do sleep 3600; done
"""
FILES = {
    "memory": ("memory.limit_in_bytes", "memory.max"),
    "pids": ("pids.max",),
    "cpu": ("cpu.cfs_quota_us", "cpu.max"),
}
Limit = Callable[[str, ResourceLimits], Awaitable[tuple[int, str]]]


class WithService(Guest):
    def prepare(self, upper: Path) -> None:
        (upper / "etc/systemd/system/thing.service").write_text(
            f"[Service]\nExecStart=/bin/sleep infinity\nMemoryMax={OWN}M\n"
        )
        (upper / "etc/systemd/system/eater.service").write_text("[Service]\nExecStart=/usr/local/bin/eater\n")
        eater = upper / "usr/local/bin/eater"
        eater.parent.mkdir(parents=True, exist_ok=True)
        eater.write_text(EATER)
        eater.chmod(0o755)

    def thing(self, name: str) -> str:
        return self.run("systemctl", "show", "-p", name, "--value", "thing").strip()

    def kernel(self, controller: str) -> str:
        """Return what the kernel has for the service's control group, of either version."""
        for folder in (f"/sys/fs/cgroup/{controller}", "/sys/fs/cgroup"):
            for name in FILES[controller]:
                text = self.run("cat", f"{folder}/system.slice/thing.service/{name}", check=False).strip()
                if text:
                    return text
        return ""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithService]:
    made = WithService(tmp_path_factory.mktemp("guest"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def operation(unit: str, action: str, limits: ResourceLimits = NO_LIMITS) -> Operation:
    return Operation(
        resource=f"rsc_{unit}", resource_class="systemd", type=unit, action=action, timeout=300.0, limits=limits
    )


@contextlib.asynccontextmanager
async def by_agent(guest: WithService) -> AsyncIterator[Limit]:
    async with connected(guest) as (connection, _):

        async def limit(unit: str, limits: ResourceLimits) -> tuple[int, str]:
            result: OperationResult = await connection.execute(operation(unit, "limit", limits))
            return result.rc, result.exit_reason

        yield limit


@contextlib.asynccontextmanager
async def by_ssh(guest: WithService) -> AsyncIterator[Limit]:
    """The words that sshd would be given, without it."""

    async def limit(unit: str, limits: ResourceLimits) -> tuple[int, str]:
        asked = operation(unit, "limit", limits)
        words = ssh_commands.operation_words(asked, "systemd")
        command = ["lxc-attach", "-P", str(guest.folder), "-n", guest.name, "--clear-env", "--", *words]
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
        end = ssh_commands.RemoteExit(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)
        outcome = ssh_commands.interpret(asked, "systemd", end)
        return outcome.rc, outcome.exit_reason

    yield limit


@pytest.mark.parametrize("way", [by_agent, by_ssh])
async def test_limits_of_a_service_come_change_and_go_while_it_runs(
    guest: WithService, way: Callable[[WithService], contextlib.AbstractAsyncContextManager[Limit]]
) -> None:
    guest.run("systemctl", "stop", "thing")
    async with way(guest) as limit:
        # before its start
        assert await limit("thing", ResourceLimits(memory=256, tasks=40)) == (0, "")
        guest.run("systemctl", "start", "thing")
        pid = guest.thing("MainPID")
        assert (guest.kernel("memory"), guest.kernel("pids")) == (f"{256 * MIB}", "40")

        # while it runs
        assert await limit("thing", ResourceLimits(memory=128, tasks=50)) == (0, "")
        assert (guest.kernel("memory"), guest.kernel("pids")) == (f"{128 * MIB}", "50")
        assert await limit("thing", ResourceLimits(memory=128)) == (0, "")
        assert guest.kernel("memory") == f"{128 * MIB}"
        assert guest.kernel("pids") != "50"

        # one that this guest can not have changes nothing
        half = ResourceLimits(memory=64, cpus=0.5)
        if guest.kernel("cpu"):
            assert await limit("thing", half) == (0, "")
            assert guest.kernel("cpu").split()[0] == "50000"
        else:
            rc, why = await limit("thing", half)
            assert rc == 1
            assert "cpu" in why.lower()
            assert guest.kernel("memory") == f"{128 * MIB}"

        # and gone: those of its own file count again
        assert await limit("thing", NO_LIMITS) == (0, "")
        assert guest.kernel("memory") == f"{OWN * MIB}"
        assert guest.thing("MainPID") == pid
        assert await limit("thing", NO_LIMITS) == (0, "")
        assert guest.run("sh", "-c", f"ls {bounds.CONTROL}/thing.service.d 2>/dev/null || true").strip() == ""

        # a unit that is not there is no service that is limited
        rc, why = await limit("nothing-of-that-name", ResourceLimits(tasks=4))
        assert rc == 1
        assert why


@pytest.mark.parametrize("way", [by_agent, by_ssh])
async def test_less_memory_than_a_service_uses_is_refused_and_it_lives(
    guest: WithService, way: Callable[[WithService], contextlib.AbstractAsyncContextManager[Limit]]
) -> None:
    guest.run("systemctl", "start", "eater")
    guest.run("timeout", "300", "sh", "-c", "until [ -e /run/eaten ]; do sleep 0.1; done")  # it holds its memory
    pid = guest.run("systemctl", "show", "-p", "MainPID", "--value", "eater").strip()
    async with way(guest) as limit:
        rc, why = await limit("eater", ResourceLimits(memory=8))
        assert rc == 1
        assert "MiB of memory now" in why
        assert guest.run("systemctl", "show", "-p", "MemoryMax", "--value", "eater").strip() == "infinity"
        assert await limit("eater", ResourceLimits(memory=512)) == (0, "")
        assert await limit("eater", NO_LIMITS) == (0, "")
    assert guest.run("systemctl", "show", "-p", "MainPID", "--value", "eater").strip() == pid


def test_what_is_sent_to_systemd_is_laid_out_as_d_bus_says() -> None:
    """Text, truth value, array of (text, variant of a 64-bit number): each aligned to its own size, a structure to 8."""
    unit, array, value = b"\x09\0\0\0a.service\0", b"\x01\0\0\0\x18\0\0\0", b"\x28\0\0\0\0\0\0\0"
    item = b"\x08\0\0\0TasksMax\0\x01t\0"
    assert bounds.properties("a.service", [("TasksMax", 40)]) == unit + b"\0\0" + array + item + value


@pytest.mark.parametrize("text", ["memory", "memory=", "memory=-1", "memory=nan", "rss=5", "tasks=1e99"])
def test_no_limit(text: str) -> None:
    with pytest.raises(ValueError, match=r"limit|float"):
        bounds.parse(text)
