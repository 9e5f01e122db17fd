"""Hosts that are there already, under the whole engine: killed, hung, not to be fenced; the engine killed while it fences.

The hosts are containers that nothing of ours made, switched by a fence agent of the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infrastructure.physical import NEEDED, PASSWORD, PhysicalHost, WatchedHost
from tests.machines.stage import NAME, Stage, World, stage

pytestmark = [
    *NEEDED,
    pytest.mark.timeout(1800),
]
MANIFEST = f"""\
deployable: {NAME}
infrastructure: hosts
monitor: pm
assemblies:
  db:
    host: alpha
    resources:
      thing: {{class: systemd, type: thing, monitor: 5s}}
    timeouts: {{start: 10m}}
    escalation: {{failures: 50, period: 6h}}
  web:
    host: beta
    after: [db]
    resources:
      thing: {{class: systemd, type: thing, monitor: 5s}}
    timeouts: {{start: 10m}}
    escalation: {{failures: 50, period: 6h}}
  app:
    host: delta
    transport: remote
    resources:
      thing: {{class: systemd, type: thing, monitor: 5m}}
    timeouts: {{start: 10m}}
    escalation: {{failures: 50, period: 6h}}
"""


def toml(value: object) -> str:
    """Return a value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


class Hosts(World):
    """Two hosts that are reached by sshd and one with an agent, each with its fence device."""

    infrastructure = "hosts"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.hosts = {name: PhysicalHost(folder / name) for name in ("alpha", "beta")}
        self.hosts["delta"] = WatchedHost(folder / "delta")

    def settings(self, home: Path) -> str:
        """The daemon's settings."""
        lines = ["[infrastructures.hosts]", "poll = 1.0"]
        for name, host in self.hosts.items():
            lines.append(f"host.{name} = {toml({**host.settings(), 'silence': 6.0})}")
        lines.append('host.gamma = {address = "192.0.2.1"}')
        return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The running deployable."""
    folder = tmp_path_factory.mktemp("hosts")
    world = Hosts(folder)
    try:
        for host in world.hosts.values():
            host.start()
        (folder / "stage").mkdir()
        with stage(folder / "stage", world) as it:
            it.apply_text(MANIFEST, "25m")
            yield it
            everything = "".join(p.read_text(errors="replace") for p in (folder / "stage").rglob("*.log"))
            assert PASSWORD not in everything, "a secret is in a log"
    finally:
        for host in world.hosts.values():
            host.stop()


def of(shop: Stage, name: str) -> PhysicalHost:
    assert isinstance(shop.world, Hosts)
    return shop.world.hosts[name]


def main_process(shop: Stage, assembly: str) -> str:
    return shop.guest(assembly, "systemctl", "show", "-p", "MainPID", "--value", "thing")


def test_what_runs_on_hosts(shop: Stage) -> None:
    shop.running()
    for name in ("alpha", "beta", "delta"):
        assert of(shop, name).run("systemctl", "is-active", "thing").strip() == "active"
        assert of(shop, name).actions() == [], "a host that was on is not switched"
    assert {each.name: each.address for each in shop.client.status(NAME).assemblies} == {
        "db": of(shop, "alpha").address, "web": of(shop, "beta").address, "app": of(shop, "delta").address,
    }  # fmt: skip


def test_service_killed(shop: Stage) -> None:
    cursor, before = shop.cursor(), main_process(shop, "web")
    shop.guest("web", "kill", "-9", before)
    shop.event(cursor, "resource.state", "web", "thing", "failed")
    shop.event(cursor, "resource.state", "web", "thing", "running")
    shop.running()
    assert main_process(shop, "web") not in ("0", before)


def test_host_killed_is_fenced_and_on_again(shop: Stage) -> None:
    cursor, host, other = shop.cursor(), of(shop, "beta"), main_process(shop, "db")
    before = len(host.actions())
    host.kill()
    shop.event(cursor, "isolation", "web", "", "stopped")
    shop.event(cursor, "resource.state", "web", "thing", "running")
    shop.running()
    assert host.actions()[before:][:2] == ["off", "on"]
    assert host.run("systemctl", "is-active", "thing").strip() == "active"
    assert main_process(shop, "db") == other, "the other host was left alone"


def test_a_host_with_an_agent(shop: Stage) -> None:
    """The agent tells of a service's end, long before the next monitor; the host's death closes its connection."""
    host = of(shop, "delta")
    assert isinstance(host, WatchedHost)
    assert host.has_connection()

    def main() -> str:
        return host.run("systemctl", "show", "-p", "MainPID", "--value", "thing").strip()

    cursor, before = shop.cursor(), main()
    host.run("kill", "-9", before)
    shop.event(cursor, "resource.state", "app", "thing", "running")
    shop.running()
    assert main() not in ("0", before)

    cursor, done = shop.cursor(), len(host.actions())
    host.kill()
    shop.event(cursor, "isolation", "app", "", "stopped")
    shop.event(cursor, "resource.state", "app", "thing", "running")
    shop.running()
    assert host.actions()[done:][:2] == ["off", "on"]
    assert host.has_connection()

    cursor, done = shop.cursor(), len(host.actions())
    host.freeze()
    shop.event(cursor, "assembly.state", "app", "", "suspect")
    shop.event(cursor, "resource.state", "app", "thing", "running")
    shop.running()
    assert host.actions()[done:][:2] == ["off", "on"]


def engine_pids(shop: Stage) -> set[str]:
    return {lock.read_text().strip() for lock in (shop.home / "run").glob("dped-*.lock")}


def test_host_hung_then_its_fence_device_fails_then_the_engine_is_killed_while_it_fences(shop: Stage) -> None:
    """Two signals make it dead; until its isolation is confirmed nothing is started, whatever happens meanwhile."""
    cursor, host, other = shop.cursor(), of(shop, "beta"), main_process(shop, "db")
    before = len(host.actions())
    host.fail.write_text("off")
    host.freeze()
    shop.event(cursor, "assembly.state", "web", "", "suspect")
    shop.event(cursor, "isolation", "web", "", "failed")
    failed = shop.event(cursor, "assembly.state", "web", "", "failed")
    assert "failed to off" in failed.text("reason")
    assert "***" in failed.text("reason")
    shop.until(lambda: host.actions()[before:].count("off") > 1, 120)
    assert set(host.actions()[before:]) == {"off"}, "nothing is started while isolation is not confirmed"
    assert host.state() == "FROZEN"
    assert "hung" in str(shop.client.explain(NAME, assembly="web", limit=50))

    host.hold.touch()
    host.fail.unlink()
    tried, engines = len(host.actions()), engine_pids(shop)
    shop.until(lambda: "off" in host.actions()[tried:], 120)
    shop.kill_engines()
    shop.until(lambda: not engines & engine_pids(shop) and len(engine_pids(shop)) == len(engines), 120)
    assert host.state() == "FROZEN", "the agent that was left holds the device"
    host.hold.unlink()
    shop.event(cursor, "resource.state", "web", "thing", "running")
    shop.running()
    assert host.actions()[-1] == "on"
    assert host.run("systemctl", "is-active", "thing").strip() == "active"
    assert main_process(shop, "db") == other, "the other host was left alone"


def test_a_key_that_can_not_be_read_makes_no_host_dead(shop: Stage) -> None:
    host, before = of(shop, "beta"), main_process(shop, "web")
    key, done = Path(host.settings()["key_file"]), host.actions()
    key.chmod(0o644)
    shop.kill_engines()
    shop.until(lambda: "can be read by others" in shop.client.status(NAME).reason, 120)
    key.chmod(0o600)
    shop.running()
    assert main_process(shop, "web") == before
    assert host.actions() == done


def test_a_host_belongs_to_one_deployable(shop: Stage) -> None:
    def refused(*hosts: str) -> str:
        named = ", ".join(f"{host}: {{host: {host}}}" for host in hosts)
        manifest = shop.home.parent / "other.yaml"
        manifest.write_text(f"{{deployable: thief, infrastructure: hosts, monitor: pm, assemblies: {{{named}}}}}\n")
        done = shop.pcloud("apply", "-f", str(manifest), check=False)
        assert done.returncode != 0
        return str(done.stdout)

    assert f"host beta is in use by the deployable {NAME}" in refused("beta")
    said = refused("gamma", "betta")
    for code in ("HOST_UNFENCED", "HOST_WITHOUT_KEY", "UNKNOWN_HOST"):
        assert code in said
    assert [each.name for each in shop.client.deployables()] == [NAME]


def test_doctor_asks_the_fence_devices(shop: Stage) -> None:
    checks = json.loads(shop.pcloud("doctor", "-o", "json", check=False).stdout)
    found = {each["check"]: each for each in (checks if isinstance(checks, list) else checks["checks"])}
    assert found["host alpha: fence device"]["state"] == "ok"
    assert found["host gamma: fence device"]["state"] == "warning"


def test_deleted_the_hosts_are_on_and_free(shop: Stage) -> None:
    names = ("alpha", "beta", "delta")
    done = [of(shop, name).actions() for name in names]
    shop.pcloud("delete", NAME, "--wait", "--yes")
    for name in names:
        assert of(shop, name).state() == "RUNNING"
        assert of(shop, name).run("systemctl", "is-active", "thing", check=False).strip() in ("inactive", "failed")
    assert [of(shop, name).actions() for name in names] == done
    assert not list(shop.home.rglob("*.claim"))
