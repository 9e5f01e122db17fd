"""The engine in this process over stand-ins: thousands of deployables, a full disk, settings, isolation."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from pcloud.cpe import processes
from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.settings import load
from pcloud.cpe.telling import concerns
from pcloud.events.event import Severity
from pcloud.model.deployable import Assembly, Deployable, Resource, ResourceState
from pcloud.model.errors import InvalidDocument, NotFound
from tests.cpe.engine import engine, eventually, sample
from tests.cpe.fakes import FolderImages
from tests.cpe.harness import PATIENCE, DaemonProcess, manifest, until


@pytest.mark.timeout(900)
async def test_a_thousand_deployables(tmp_path: Path) -> None:
    """They are loaded, and loaded again by another daemon, spread over its engine processes. (`bench memory` has 5,000.)"""
    async with engine(tmp_path) as first:
        for number in range(1000):
            await first.put(sample(f"d{number}"), start=False)
        rows = first.desired.rows
        assert len(rows) == 1000
        await first.store.deployables.put_rows([row_started(rows[name]) for name in rows])
    async with engine(tmp_path) as second:

        def running() -> int:
            return sum(one.state is ResourceState.RUNNING for one in second.desired.statuses.values())

        await eventually(lambda: running() == 1000, "all of them run", timeout=800)
        assert len(second.summaries()) == 1000
        slots = [len(second.desired.of_slot(slot)) for slot in second.shared_slots()]
        assert max(slots) - min(slots) <= 1, "placed evenly"


def row_started(row):  # type: ignore[no-untyped-def]
    import msgspec

    return msgspec.structs.replace(row, target="started")


async def test_another_version_replaces_no_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade brings another agent, or builds images otherwise: guests keep what they were made from until their assembly
    asks for something else, and then that assembly alone is made anew."""
    record = tmp_path / "guests" / "images.shop"
    httpd = Resource(name="httpd", resource_class="systemd", type="apache2")
    web, db = (Assembly(name=one, image="bookworm", resources=(httpd,)) for one in ("web", "db"))
    async with engine(tmp_path) as first:
        await first.put(Deployable(name="shop", assemblies=(web, db)))
        await eventually(lambda: record.exists(), "loaded")
        before = json.loads(record.read_text())
    record.unlink()
    monkeypatch.setattr(FolderImages, "version", "+2")
    async with engine(tmp_path) as second:
        await eventually(lambda: record.exists(), "loaded by the new version")
        assert json.loads(record.read_text()) == before
        record.unlink()
        changed = msgspec.structs.replace(web, packages=("php",))
        await second.put(Deployable(name="shop", assemblies=(changed, db)))
        await eventually(lambda: record.exists(), "the change loaded")
        images = json.loads(record.read_text())
        assert images["db"] == before["db"]
        assert images["web"].endswith("php+2")


@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_on_its_way_in_ends_with_the_daemon(tmp_path: Path, turns: int) -> None:
    """However far asyncio is with it; a socket that nobody closes would be a warning, which is an error here."""
    with socket.socket(socket.AF_UNIX) as late:
        late.setblocking(False)
        async with engine(tmp_path) as cpe:
            late.connect(str(cpe.home.socket))
            for _ in range(turns):
                await asyncio.sleep(0)
            await cpe.fleet.close(engines=True)
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionResetError):  # nobody had taken it up yet
                    assert await asyncio.get_running_loop().sock_recv(late, 1) == b""
        gc.collect()


async def test_isolation_moves_a_deployable_and_its_guests_stay(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        await cpe.put(sample("shop"))
        await eventually(lambda: "shop" in cpe.desired.statuses, "loaded")
        guests = {path.name: path.read_text() for path in (tmp_path / "guests").glob("shop.*")}
        await cpe.put(sample("shop", isolation="process"))
        await eventually(lambda: cpe.desired.rows["shop"].slot == "own.shop", "moved")
        await eventually(lambda: linked_with(cpe, "own.shop"), "its own engine process holds it")
        assert {path.name: path.read_text() for path in (tmp_path / "guests").glob("shop.*")} == guests
        await cpe.put(sample("shop"))
        await eventually(lambda: "own.shop" not in cpe.fleet.slots, "back, and the empty process has ended")
        await eventually(lambda: linked_with(cpe, cpe.desired.rows["shop"].slot), "a shared one holds it")


def linked_with(cpe: CloudPolicyEngine, slot: str) -> bool:
    found = cpe.fleet.slots.get(slot)
    return found is not None and found.link is not None and "shop" in found.link.loaded


def with_image(name: str, image: str) -> Deployable:
    shop = sample(name)
    return msgspec.structs.replace(
        shop, assemblies=tuple(msgspec.structs.replace(one, image=image) for one in shop.assemblies)
    )


async def test_a_change_is_pending_until_its_engine_has_taken_it_up(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        await cpe.put(sample("shop"))
        await eventually(lambda: "shop" in cpe.desired.statuses, "loaded")
        process = cpe.fleet.slots[cpe.desired.rows["shop"].slot].pid
        os.kill(process, signal.SIGSTOP)
        try:
            await cpe.put(msgspec.structs.replace(sample("shop"), priority=7))
            status = await cpe.status("shop")
            assert (status.state, status.change) == (ResourceState.RUNNING, "pending")
        finally:
            os.kill(process, signal.SIGCONT)
        await eventually(lambda: cpe.summaries()[0].change == "", "taken up")
        assert (await cpe.status("shop")).revision == cpe.desired.rows["shop"].revision


async def test_a_failed_change_is_told_beside_the_state_of_what_runs_and_leaves_it_managed(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        await cpe.put(sample("shop"))
        await eventually(lambda: "shop" in cpe.desired.statuses, "loaded")
        guests = {path.name: path.read_text() for path in (tmp_path / "guests").glob("shop.*")}
        await cpe.put(with_image("shop", "jammy"))
        await eventually(lambda: cpe.summaries()[0].change == "failed", "the change failed")
        status = await cpe.status("shop")
        assert (status.state, status.change) == (ResourceState.RUNNING, "failed")
        assert "the mirror does not answer" in status.reason
        # Its engine dies: what ran before is taken over by the next one, though the images of the change are not there.
        slot = cpe.fleet.slots[cpe.desired.rows["shop"].slot]
        before = slot.pid
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: slot.pid not in (0, before) and linked_with(cpe, slot.name), "taken over")
        await eventually(lambda: "shop" in cpe.desired.statuses, "and it tells of it")
        assert {path.name: path.read_text() for path in (tmp_path / "guests").glob("shop.*")} == guests
        status = await cpe.status("shop")
        assert (status.state, status.change) == (ResourceState.RUNNING, "failed")
        assert (await cpe.pause("shop")).paused
        await eventually(lambda: cpe.desired.statuses["shop"].paused, "the engine heard of the pause")
    async with engine(tmp_path) as cpe:  # and the next daemon knows what runs
        await eventually(lambda: "shop" in cpe.desired.statuses, "taken over by another daemon")
        await cpe.resume("shop")
        await cpe.put(sample("shop"))
        await eventually(lambda: cpe.summaries()[0].change == "", "taken back")
        assert cpe.summaries()[0].state is ResourceState.RUNNING


async def test_a_corrected_document_cancels_the_build_of_the_wrong_one(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        await cpe.put(with_image("shop", "noble"))
        await eventually(lambda: "building" in cpe.summaries()[0].reason, "the build begun")
        (wrong,) = await cpe.jobs.list()
        await cpe.put(sample("shop"))
        await eventually(lambda: cpe.summaries()[0].state is ResourceState.RUNNING, "it runs")
        assert (await cpe.jobs.get(wrong.id)).state == "cancelled"
        assert cpe.summaries()[0].reason == ""


async def test_a_build_that_the_corrected_document_needs_as_well_goes_on(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        await cpe.put(Deployable(name="shop", assemblies=(Assembly(name="a", image="trixie"),)))
        await eventually(lambda: "building" in cpe.summaries()[0].reason, "the build begun")
        two = (Assembly(name="a", image="trixie"), Assembly(name="b", image="bookworm"))
        await cpe.put(Deployable(name="shop", assemblies=two))
        await eventually(lambda: cpe.summaries()[0].state is ResourceState.RUNNING, "it runs")
        assert (cpe.home.path / "images" / "builds.log").read_text() == "trixie-\n"


async def test_no_key_outlives_the_row_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that dies in the middle of a deletion goes on with it for as long as there is a row."""
    left: list[bool] = []
    async with engine(tmp_path) as cpe:
        await cpe.put(sample("shop"))
        await eventually(lambda: "shop" in cpe.desired.statuses, "loaded")
        folder, remove = cpe.home.keys / "shop", cpe.store.deployables.remove
        assert folder.is_dir()

        async def watched(name: str) -> None:
            left.append(folder.exists())
            await remove(name)

        monkeypatch.setattr(cpe.store.deployables, "remove", watched)
        await cpe.delete("shop")
        await eventually(lambda: "shop" not in cpe.desired.rows, "deleted")
        assert left == [False]
        assert not folder.exists()


async def test_two_deployables_share_one_build(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        for name in ("one", "two"):
            await cpe.put(Deployable(name=name, assemblies=(Assembly(name="a", image="trixie"),)))
        await eventually(lambda: {"one", "two"} <= cpe.desired.statuses.keys(), "both run")
        assert (cpe.home.path / "images" / "builds.log").read_text() == "trixie-\n"


async def test_an_image_that_can_not_be_built_is_no_running_deployable(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        await cpe.put(Deployable(name="one"))
        await eventually(lambda: "one" in cpe.desired.statuses, "the empty one runs")
        assert cpe.desired.summary(cpe.desired.rows["one"]).state is ResourceState.RUNNING
        cpe.desired.overlay("one", ResourceState.FAILED, "its image could not be built", change="failed")
        assert cpe.desired.summary(cpe.desired.rows["one"]).state is ResourceState.FAILED


async def test_only_what_exists_is_recovered(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        resource = Resource(name="r", resource_class="ocf", provider="pacemaker", type="Dummy")
        await cpe.put(Deployable(name="one", assemblies=(Assembly(name="a", image="trixie", resources=(resource,)),)))
        await eventually(lambda: "one" in cpe.desired.statuses, "it runs")
        for parts, code in (
            (("b", ""), "NO_SUCH_ASSEMBLY"),
            (("a", "s"), "NO_SUCH_RESOURCE"),
            (("", "r"), "NO_SUCH_ASSEMBLY"),
        ):
            with pytest.raises(NotFound) as caught:
                await cpe.recover("one", assembly=parts[0], resource=parts[1])
            assert caught.value.problems[0].code == code
        await cpe.recover("one", assembly="a", resource="r")
        await cpe.recover("one")


async def test_processes_that_never_connected_end_with_the_daemon(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        # Started, and not linked yet: nothing was awaited long enough for a Hello.
        await eventually(lambda: all(slot.pid for slot in cpe.fleet.slots.values()), "started")
        pids = {name: slot.pid for name, slot in cpe.fleet.slots.items()}
    assert pids
    await eventually(lambda: not any(processes.is_engine(pid, slot) for slot, pid in pids.items()), "ended")


async def test_stopping_cancels_the_build(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        await cpe.put(Deployable(name="one", assemblies=(Assembly(name="a", image="trixie"),)))
        await eventually(lambda: "building" in cpe.desired.summary(cpe.desired.rows["one"]).reason, "it builds")
        status = await cpe.stop_deployable("one")
        assert status.state is ResourceState.STOPPED
        assert [one.state for one in await cpe.jobs.list()] == ["cancelled"]
        assert not (cpe.home.path / "images" / "trixie-").exists()
        job = await cpe.delete("one")
        await eventually(lambda: "one" not in cpe.desired.rows, "deleted")
        assert job.kind == "deployable.delete"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "cpe-test", mount], check=True)
    daemon = DaemonProcess(mount / "home")
    daemon.guests = tmp_path / "guests"
    daemon.guests.mkdir()
    daemon.environment["FAKE_GUESTS"] = str(daemon.guests)
    try:
        daemon.start()
        daemon.apply(manifest("shop"))
        daemon.running("shop")
        filler = mount / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        response = until(
            lambda: next((one for one in refused(daemon)), None), "applying is refused once there is no room"
        )
        assert response["code"] == "STORE_FULL"
        assert "make room" in response["hint"]
        assert daemon.call("GET", "/v1/deployables/shop", 200)["state"] == "running", "the daemon lives"
        daemon.kill()
        daemon.start()
        daemon.running("shop")  # and starts again, though it can write nothing
        filler.unlink()
        daemon.apply(manifest("later"))  # it works again by itself
        daemon.running("later")
    finally:
        daemon.close()
        daemon.client.close()
        subprocess.run(["umount", "-l", mount], check=True)


def refused(daemon: DaemonProcess) -> list[dict[str, str]]:
    response = daemon.client.post(
        "/v1/deployables", content=manifest("other", assemblies=tuple(f"a{n}" for n in range(40)))
    )
    if response.status_code == 200:
        daemon.client.delete("/v1/deployables/other")
        return []
    assert response.status_code in (409, 507), response.text
    return [one for one in response.json()["errors"] if response.status_code == 507]


def test_settings_name_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "pcloud.toml"
    path.write_text('[api]\nlisten = "127.0.0.1:1"\n\n[engine]\nslots = "many"\n')
    with pytest.raises(InvalidDocument) as caught:
        load(path, {})
    problem = caught.value.problems[0]
    assert (problem.path, problem.line, problem.file) == ("engine.slots", 5, str(path))
    path.write_text("[engine]\n\nslotz = 3\n")
    with pytest.raises(InvalidDocument) as caught:
        load(path, {})
    assert (caught.value.problems[0].path, caught.value.problems[0].line) == ("engine.slotz", 3)
    path.write_text("[engine\n")
    with pytest.raises(InvalidDocument) as caught:
        load(path, {})
    assert (caught.value.code, caught.value.problems[0].line) == ("SETTINGS_SYNTAX", 1)
    path.write_text('[[sinks]]\nname = "x"\nkind = "webhook"\n[infrastructures.lxc]\nbridge = "b0"\n')
    with pytest.raises(InvalidDocument, match="http or https"):
        load(path, {})
    sink = '[[sinks]]\nname = "x"\nkind = "syslog"\noutcomes = true\nseverity = "critical"\n'
    path.write_text(sink + 'type = "resource.*"\n')
    with pytest.raises(InvalidDocument, match="leave `type` out"):
        load(path, {})
    path.write_text(sink)
    wanted = load(path, {}).sinks[0].filter()
    assert (wanted.type, wanted.severity) == ("incident", Severity.CRITICAL)
    found = load(tmp_path / "none", {"PCLOUD__ENGINE__SLOTS": "3", "PCLOUD__API__LISTEN": "[::1]:80"})
    assert (found.engine.slots, found.api.listen) == (3, "[::1]:80")


def test_concerns() -> None:
    record = {"actions": [{"subject": "web/httpd"}], "observations": [{"what": "db/mysqld exited"}]}
    assert concerns(record, "", "")
    assert concerns(record, "web", "httpd")
    assert not concerns(record, "web", "mysqld")
    assert concerns(record, "db", "mysqld")
    assert not concerns(record, "cache", "")
