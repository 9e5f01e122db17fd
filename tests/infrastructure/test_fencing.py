"""Fence agents as the fence-agents API has it: what is said to one, what its answers mean, and what comes of bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pcloud.environment.infrastructure import GuestSpec, GuestState, Identity, Image, InfrastructureError
from pcloud.infrastructure.fencing import FenceDevice, find, parse_metadata
from pcloud.infrastructure.hosts import HostsInfrastructure
from pcloud.infrastructure.hosts_checks import checks
from pcloud.infrastructure.hosts_claims import Claim
from pcloud.infrastructure.hosts_settings import FenceSettings, hosts_settings
from tests.infrastructure.physical import AGENT

SECRET = "s3cret of the device"


def agent(folder: Path, script: str) -> str:
    """Write an agent; it finds what it was given in `input` and `arguments` of its folder."""
    path = folder / "fence_test"
    head = f'#!/bin/sh\ncat > "{folder}/input"\necho "$# $*" > "{folder}/arguments"\nenv > "{folder}/environment"\n'
    path.write_text(head + script)
    path.chmod(0o755)
    return str(path)


def device(folder: Path, script: str, **more: Any) -> FenceDevice:
    secret = folder / "password"
    secret.touch(0o600)
    secret.write_text(SECRET + "\n")
    given = {"timeout": 300.0, "status_timeout": 300.0, **more}
    settings = FenceSettings(
        agent=agent(folder, script), parameters={"ip": "192.0.2.9"}, secrets={"password": str(secret)}, **given
    )
    return FenceDevice("db1", settings, folder / "lock")


async def test_everything_goes_through_standard_input(tmp_path: Path) -> None:
    assert await device(tmp_path, "exit 0").on() is True
    assert sorted((tmp_path / "input").read_text().splitlines()) == [
        "action=status", "ip=192.0.2.9", f"password={SECRET}",
    ]  # fmt: skip
    assert (tmp_path / "arguments").read_text() == "0 \n"
    assert SECRET not in (tmp_path / "environment").read_text()


async def test_the_exit_code_of_status(tmp_path: Path) -> None:
    assert await device(tmp_path, "exit 2").on() is False
    for code in (1, 3, 8, 255):
        with pytest.raises(InfrastructureError, match=f"exit code {code}"):
            await device(tmp_path, f"exit {code}").on()


async def test_secrets_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError) as caught:
        await device(tmp_path, f"echo 'login {SECRET} refused' >&2; exit 1").switch(on=False)
    assert "login *** refused" in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_an_action_counts_when_status_confirms_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(timeout: float, *, wanted: bool) -> bool:
        return False

    lies = device(tmp_path, "exit 0")
    assert await lies.until(0.0, wanted=False) is False
    monkeypatch.setattr(lies, "until", never)
    with pytest.raises(InfrastructureError, match="status denies it"):
        await lies.switch(on=False)
    looks = tmp_path / "looks"
    counted = f'echo look >> "{looks}"\n[ $(grep -c . "{looks}") -lt 3 ] || exit 2'
    script = f'grep -q action=status "{tmp_path}/input" || exit 0\n{counted}'
    await device(tmp_path, script).switch(on=False)


async def test_an_agent_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    hangs = device(tmp_path, f'sleep 4321 & echo $! > "{tmp_path}/child"; wait', status_timeout=1.0)
    with pytest.raises(InfrastructureError, match="did not end status within 1 s"):
        await hangs.on()
    async with asyncio.timeout(60):
        while _runs(tmp_path / "child"):
            await asyncio.sleep(0.05)


def _runs(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        return b"4321" in Path(f"/proc/{file.read_text().strip()}/cmdline").read_bytes()
    except OSError:
        return False


async def test_one_agent_at_a_time(tmp_path: Path) -> None:
    script = f'echo begin >> "{tmp_path}/order"; sleep 0.2; echo end >> "{tmp_path}/order"'
    one, other = device(tmp_path, script), device(tmp_path, script)
    await asyncio.gather(one.on(), other.on(), one.on())
    assert (tmp_path / "order").read_text().split() == ["begin", "end"] * 3


async def test_an_agent_that_a_killed_engine_left_is_waited_for(tmp_path: Path) -> None:
    go, order = tmp_path / "go", tmp_path / "order"
    script = f'echo begin >> "{order}"; while [ ! -e "{go}" ]; do sleep 0.05; done; echo end >> "{order}"'
    left = device(tmp_path, script, status_timeout=300.0)
    code = (
        "import asyncio, sys, msgspec; from pathlib import Path\n"
        "from pcloud.infrastructure.fencing import FenceDevice\n"
        "from pcloud.infrastructure.hosts_settings import FenceSettings\n"
        "asyncio.run(FenceDevice('db1', msgspec.json.decode(sys.argv[1], type=FenceSettings), Path(sys.argv[2])).on())\n"
    )
    words = (msgspec.json.encode(left._settings).decode(), str(left._lock))
    engine = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *words)
    try:
        async with asyncio.timeout(300):
            while not order.exists():
                await asyncio.sleep(0.05)
    finally:
        engine.kill()
        await engine.wait()
    asked = asyncio.create_task(left.on())
    # However long the first one takes: the second has not begun when it ends.
    await asyncio.wait([asked], timeout=0.5)
    assert order.read_text().split() == ["begin"]
    go.touch()
    assert await asked is True
    assert order.read_text().split() == ["begin", "end", "begin", "end"]


async def test_agents_that_are_not_there(tmp_path: Path) -> None:
    absent = FenceDevice("db1", FenceSettings(agent="fence_there_is_none"), tmp_path / "lock")
    with pytest.raises(InfrastructureError, match="fence_there_is_none is not installed"):
        await absent.on()
    broken = tmp_path / "fence_broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(InfrastructureError, match="can not be run"):
        await FenceDevice("db1", FenceSettings(agent=str(broken)), tmp_path / "lock").on()


@pytest.mark.parametrize(
    "document",
    [b"", b"usage: fence_x", b"<resource-agent", b"<html/>", b'<!DOCTYPE a [<!ENTITY b "c">]><resource-agent>&b;<x/>'],
)
def test_metadata_that_is_none(document: bytes) -> None:
    with pytest.raises(ValueError, match="its metadata is"):
        parse_metadata(document)


def test_metadata_of_an_agent() -> None:
    document = b"""<?xml version="1.0" ?><resource-agent name="fence_virsh" shortdesc="Fence agent for virsh" >
      <parameters><parameter name="action" unique="0" required="1"><content type="string" default="reboot" /></parameter>
      <parameter name="ip" unique="0" required="1" obsoletes="ipaddr"><content type="string" /></parameter>
      <parameter name="password_script" unique="0" required="0"><content type="string" /></parameter></parameters>
      <actions><action name="on" automatic="0"/><action name="off" /><action name="status" /></actions></resource-agent>"""
    read = parse_metadata(document)
    assert (read.name, read.required, read.actions) == ("fence_virsh", ("action", "ip"), ("on", "off", "status"))
    assert read.parameters == ("action", "ip", "password_script")


def described(folder: Path, **fence: Any) -> dict[str, Any]:
    return {"host": {"db1": {"address": "192.0.2.1", "fence": {"agent": str(AGENT), **fence}}}}


def test_doctor_says_what_is_wrong_with_a_device(tmp_path: Path) -> None:
    def said(**fence: Any) -> tuple[str, str]:
        found = {check.check: check for check in checks(described(tmp_path, **fence))}["host db1: fence device"]
        return found.state, found.detail

    parameters = {"plug": "x", "folder": str(tmp_path)}
    assert said(parameters={**parameters, "password": "wrong"}) == (
        "missing", f"{AGENT} does not reach its device (exit code 1): Login incorrect: ***",
    )  # fmt: skip
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_text("wrong\n")
    assert said(parameters=parameters, secrets={"password": str(secret)})[1].endswith("Login incorrect: ***")
    secret.chmod(0o640)
    assert "can be read by others" in said(parameters=parameters, secrets={"password": str(secret)})[1]
    state, detail = said(parameters={**parameters, "colour": "red"})
    assert (state, "knows no parameter colour" in detail) == ("missing", True)
    assert said(agent="fence_there_is_none")[0] == "missing"


def test_doctor_says_what_is_wrong_with_the_settings() -> None:
    assert checks({"host": {"db1": {}}})[0].state == "missing"
    (unfenced,) = [check for check in checks({"host": {"db1": {"address": "db1"}}}) if "fence" in check.check]
    assert (unfenced.state, "no fence device" in unfenced.detail) == ("warning", True)


@pytest.mark.parametrize(
    "host",
    [
        {"address": "-oProxyCommand=x"},
        {"address": "a b"},
        {"address": "a", "ssh_port": 0},
        {"address": "a", "key_file": "/k"},
        {"address": "a", "host_key": "one\ntwo"},
        {"address": "a", "power": "managed"},
        {"address": "a", "power": "sometimes"},
        {"address": "a", "unfenced": True, "fence": {"agent": "fence_x"}},
        {"address": "a", "fence": {"agent": "reboot"}},
        {"address": "a", "fence": {"agent": "/bin/../tmp/fence_x"}},
        {"address": "a", "fence": {"agent": "fence_x", "parameters": {"action": "on"}}},
        {"address": "a", "fence": {"agent": "fence_x", "parameters": {"ip": "a\naction=on"}}},
        {"address": "a", "fence": {"agent": "fence_x", "parameters": {"p": "a"}, "secrets": {"p": "/f"}}},
    ],
)
def test_settings_that_are_refused(host: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        hosts_settings({"host": {"db1": host}})
    with pytest.raises(ValueError, match="a host's name"):
        hosts_settings({"host": {"../db1": {"address": "a"}}})


@pytest.mark.real
@pytest.mark.skipif(not find("fence_dummy"), reason="fence agents are not installed (package fence-agents)")
class TestRealAgents:
    """Debian's own agents."""

    @pytest.mark.parametrize("name", ["fence_dummy", "fence_virsh", "fence_ipmilan"])
    async def test_their_metadata(self, name: str, tmp_path: Path) -> None:
        answer = await FenceDevice("db1", FenceSettings(agent=name), tmp_path / "lock").run("metadata", 300.0)
        read = parse_metadata(answer.output)
        assert (answer.code, read.name) == (0, name)
        assert {"on", "off", "reboot", "status", "monitor", "metadata"} <= {*read.actions}

    async def test_switching(self, tmp_path: Path) -> None:
        status = tmp_path / "status"
        settings = FenceSettings(
            agent="fence_dummy", parameters={"status_file": str(status)}, timeout=300.0, status_timeout=300.0
        )
        device = FenceDevice("db1", settings, tmp_path / "lock")
        for wanted in (True, False, True):
            await device.switch(on=wanted)
            assert await device.on() is wanted
        assert await device.isolate() is False
        assert await device.on() is False
        by_reboot = msgspec.structs.replace(settings, isolation="reboot")
        assert await FenceDevice("db1", by_reboot, tmp_path / "lock").isolate() is True

    def test_doctor(self, tmp_path: Path) -> None:
        fence = {"agent": "fence_dummy", "parameters": {"status_file": str(tmp_path / "status")}, "status_timeout": 300}
        (said,) = [one for one in checks({"host": {"db1": {"address": "db1", "fence": fence}}}) if "fence" in one.check]
        assert said.state == "ok", said.detail


SWITCH = """
state="$(dirname "$0")/on"
case "$(sed -n 's/^action=//p' "$(dirname "$0")/input")" in
  on) touch "$state" ;;
  off) rm -f "$state" ;;
  status) [ -e "$state" ] || exit 2 ;;
esac
"""


@pytest.fixture
def plain(tmp_path: Path) -> tuple[HostsInfrastructure, GuestSpec]:
    """A host of which nothing but its fence device is to be reached, and a guest for it."""
    fence = {"agent": agent(tmp_path, SWITCH), "timeout": 300, "status_timeout": 300}
    settings = hosts_settings({"host": {"db1": {"address": "192.0.2.1", "fence": fence}}}, str(tmp_path))
    spec = GuestSpec(
        guest_id="shop.db", deployable="shop", assembly="db", image=Image(name="db1", digest="d"), host="db1",
        identity=Identity(hostname="db1"), digest="d",
    )  # fmt: skip
    return HostsInfrastructure(settings), spec


async def test_a_crash_at_any_record_is_gone_on_from(
    plain: tuple[HostsInfrastructure, GuestSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start and an isolation, each ended at every point at which something is written down, then done again."""
    driver, spec = plain
    claims, put = driver._claims, driver._claims.put
    left = 0

    class Crash(Exception):
        pass

    def failing(claim: Claim) -> Claim:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash
        return put(claim)

    for allowed in range(3):
        monkeypatch.setattr(claims, "put", failing)
        for action in (lambda: driver.start(spec), lambda: driver.destroy(spec.guest_id)):
            left = allowed
            with contextlib.suppress(Crash):
                await action()
        monkeypatch.setattr(claims, "put", put)
        again = HostsInfrastructure(driver._settings)
        assert (await again.start(spec)).state is GuestState.RUNNING
        assert (tmp_path / "on").exists()
        await again.destroy(spec.guest_id)
        assert not (tmp_path / "on").exists()
        assert (await again.inspect(spec.guest_id)).state is GuestState.STOPPED
        await again.delete(spec.guest_id)
        assert await again.list_guests() == []


async def test_a_claim_that_can_not_be_read_or_kept(
    plain: tuple[HostsInfrastructure, GuestSpec], tmp_path: Path
) -> None:
    driver, spec = plain
    await driver.start(spec)
    (tmp_path / "hosts" / "db1.claim").write_bytes(b"{")
    for asked in (driver.inspect(spec.guest_id), driver.start(spec), driver.destroy(spec.guest_id)):
        with pytest.raises(InfrastructureError, match="can not be read"):
            await asked
    assert (tmp_path / "on").exists(), "nothing was switched"


async def test_a_state_folder_that_can_not_be_written(
    plain: tuple[HostsInfrastructure, GuestSpec], tmp_path: Path
) -> None:
    driver, spec = plain
    (tmp_path / "hosts").write_text("no folder")
    with pytest.raises(InfrastructureError):
        await driver.start(spec)
    assert not (tmp_path / "on").exists()
