"""The keys of hosts: read once for each pass, and what becomes of those that can not be read."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pcloud.cpe import reconcile
from pcloud.cpe.hosts import HostKeys
from pcloud.cpe.keys import Keys
from pcloud.cpe.settings import DaemonSettings
from pcloud.model.deployable import Assembly, Deployable, Resource
from pcloud.model.errors import InvalidDocument, Unavailable
from tests.cpe.engine import engine, eventually
from tests.cpe.harness import PATIENCE

NAMES = ("one", "two", "three")


def configure(folder: Path) -> dict[str, Any]:
    """Three hosts with a key each."""
    table = {}
    for name in NAMES:
        key = folder / f"{name}.key"
        key.write_text(f"secret of {name}")
        key.chmod(0o600)
        table[name] = {"address": f"{name}.example", "agent_key_file": str(key), "unfenced": True}
    return {"hosts": {"host": table}}


def deployable() -> Deployable:
    httpd = Resource(name="httpd", resource_class="systemd", type="apache2")
    assemblies = tuple(Assembly(name=f"a{name}", host=name, resources=(httpd,)) for name in NAMES)
    return Deployable(name="metal", infrastructure="hosts", assemblies=assemblies)


def test_what_was_read_once_is_not_read_again(tmp_path: Path) -> None:
    settings = configure(tmp_path)
    keys = HostKeys(settings)
    first = keys.get("one")
    assert first.identity.agent_key == b"secret of one"
    (tmp_path / "one.key").unlink()
    settings["hosts"]["host"].clear()
    assert keys.get("one") is first
    assert keys.get("two").identity.agent_key == b"secret of two"
    assert keys.get("gone").identity.agent_key == b"", "a host that is not configured any more is opened by nothing"


def test_what_can_not_be_read_is_asked_for_again(tmp_path: Path) -> None:
    keys = HostKeys(configure(tmp_path))
    path = tmp_path / "one.key"
    path.chmod(0o644)
    with pytest.raises(Unavailable, match="can be read by others"):
        keys.get("one")
    path.chmod(0o600)
    assert keys.get("one").identity.agent_key == b"secret of one"


def test_settings_that_are_no_good_are_told_each_time() -> None:
    keys = HostKeys({"hosts": {"host": {"one": {"address": "no address"}}}})
    for _ in range(2):
        with pytest.raises(InvalidDocument, match="no name and no IP address"):
            keys.get("one")


async def test_a_pass_reads_each_key_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To see whether they can be read, and to send them."""
    passes: list[Counter[str]] = []

    class Counted(HostKeys):
        def __init__(self, infrastructures: Mapping[str, Any]) -> None:
            super().__init__(infrastructures)
            self.reads = Counter[str]()
            passes.append(self.reads)

        def _read(self, name: str) -> Keys:
            self.reads[name] += 1
            return super()._read(name)

    monkeypatch.setattr(reconcile, "HostKeys", Counted)
    async with engine(tmp_path, DaemonSettings(infrastructures=configure(tmp_path))) as cpe:
        await cpe.put(deployable())
        await eventually((tmp_path / "guests" / "images.metal").exists, "loaded")
    assert dict.fromkeys(NAMES, 1) in passes
    assert all(reads[name] <= 1 for reads in passes for name in NAMES)


async def test_keys_that_can_not_be_read_hold_it_back_until_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "_AGAIN", 0.05)
    key = tmp_path / "two.key"
    async with engine(tmp_path, DaemonSettings(infrastructures=configure(tmp_path))) as cpe:

        async def until(told: bool) -> None:
            async with asyncio.timeout(PATIENCE):
                while ("can be read by others" in (await cpe.status("metal")).reason) is not told:
                    await asyncio.sleep(0.02)

        await cpe.put(deployable())
        await eventually((tmp_path / "guests" / "images.metal").exists, "loaded")
        key.chmod(0o644)
        cpe.reconciler.mark("metal")
        await until(told=True)
        key.chmod(0o600)
        await until(told=False)
