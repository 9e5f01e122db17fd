"""One manifest, one word changed: the faults of the main job in guests that run Debian's own pacemaker-remoted, and in
guests that run our agent. Each guest has a resource of class `ocf`, one of `systemd`, one of `lsb`.

What differs is only how soon a service's end is seen: our agent tells it at once, Pacemaker's at its next monitor.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.guests import BOOT
from tests.machines.stage import NAME, Stage, World, stage

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
MANIFEST = """\
deployable: pctshop
infrastructure: lxc
x-files: &files
  /etc/systemd/system/unit.service: "[Service]\\nExecStart=/bin/sleep 7001\\n"
  /etc/init.d/script:
    mode: "0755"
    content: |
      #!/bin/sh
      ### BEGIN INIT INFO
      # Provides:          script
      # Required-Start:    $remote_fs
      # Required-Stop:     $remote_fs
      # Default-Start:
      # Default-Stop:
      # Short-Description: a service with an init script
      ### END INIT INFO
      case "$1" in
      start) setsid sleep 7002 </dev/null >/dev/null 2>&1 & echo $! > /run/script.pid ;;
      stop) [ -s /run/script.pid ] && kill "$(cat /run/script.pid)"; rm -f /run/script.pid ;;
      status) [ -s /run/script.pid ] && kill -0 "$(cat /run/script.pid)" 2>/dev/null || exit 3 ;;
      *) exit 2 ;;
      esac
x-resources: &resources
  unit: {type: "systemd:unit", monitor: 2s, escalation: {failures: 3, period: 6h}}
  script: {type: "lsb:script", monitor: 2s, after: [unit]}
  program:
    type: "ocf:heartbeat:anything"
    monitor: 2s
    parameters: {binfile: /bin/sleep, cmdline_options: "7003", pidfile: /run/program.pid}
assemblies:
  db:
    image: bookworm
    agent: @AGENT@
    packages: [resource-agents]
    files: *files
    resources: *resources
    escalation: {failures: 9, period: 600s}
  web:
    image: bookworm
    agent: @AGENT@
    after: [db]
    packages: [resource-agents]
    files: *files
    resources: *resources
    escalation: {failures: 9, period: 600s}
"""
PROCESS = {
    "unit": ["systemctl", "show", "-p", "MainPID", "--value", "unit"],
    "script": ["cat", "/run/script.pid"],
    "program": ["cat", "/run/program.pid"],
}
UNIT = {"pacemaker": "pacemaker_remote", "pcloud": "pcloud-remoted"}


@pytest.fixture(scope="module", params=["pacemaker", "pcloud"])
def shop(request, tmp_path_factory) -> Iterator[Stage]:
    """The running deployable."""
    if shutil.which("lxc-start") is None:
        pytest.skip("lxc is not installed")
    with stage(tmp_path_factory.mktemp(request.param), World()) as it:
        it.apply_text(MANIFEST.replace("@AGENT@", request.param), "20m")
        it.agent = request.param  # type: ignore[attr-defined]
        yield it


def process(shop: Stage, assembly: str, resource: str) -> str:
    return shop.guest(assembly, *PROCESS[resource])


def processes(shop: Stage) -> dict[tuple[str, str], str]:
    """The main processes of all resources; those of a guest that is started anew would be others."""
    return {(a, r): process(shop, a, r) for a in ("db", "web") for r in PROCESS}


def test_the_word_chose_the_agent(shop):
    other = next(agent for agent in UNIT if agent != shop.agent)
    assert shop.guest("web", "systemctl", "is-active", UNIT[shop.agent]) == "active"
    assert shop.guest("web", "sh", "-c", f"systemctl is-active {UNIT[other]} || true") == "inactive"
    program = shop.guest(
        "web", "sh", "-c", f"readlink /proc/$(systemctl show -p MainPID --value {UNIT[shop.agent]})/exe"
    )
    assert ("pacemaker-remoted" in program) == (shop.agent == "pacemaker"), program


def test_started_in_order_and_monitored(shop):
    assert "0" not in processes(shop).values()
    status = shop.client.status(NAME)
    assert {r.state.value for a in status.assemblies for r in a.resources} == {"running"}
    events = shop.client.events({"deployable": NAME}, limit=1000).events
    order = [(e.text("assembly"), e.text("resource"), e.text("state")) for e in events]
    assert order.index(("db", "script", "running")) < order.index(("web", "script", "starting"))
    assert order.index(("web", "unit", "running")) < order.index(("web", "script", "starting"))


@pytest.mark.parametrize("resource", ["unit", "script", "program"])
def test_service_killed(shop, resource):
    before, cursor = processes(shop), shop.cursor()
    shop.guest("web", "kill", "-9", before["web", resource])
    failed = shop.event(cursor, "resource.state", "web", resource, "failed", seconds=10)
    assert failed.text("reason")
    shop.event(cursor, "resource.state", "web", resource, "running", seconds=30)
    shop.running()
    after = processes(shop)
    assert after["web", resource] not in ("0", "", before["web", resource])
    changed = {key for key in before if before[key] != after[key]}
    # What starts after it is started again too; nothing else is touched.
    assert changed == {("web", resource)} | ({("web", "script")} if resource == "unit" else set())


def test_a_guests_dependents_follow(shop):
    before, cursor = processes(shop), shop.cursor()
    shop.guest("db", "kill", "-9", before["db", "program"])
    shop.event(cursor, "resource.state", "web", "unit", "running", seconds=30)
    shop.running()
    after = processes(shop)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {("db", "program"), *(("web", resource) for resource in PROCESS)}


def test_guest_killed(shop):
    before, cursor = processes(shop), shop.cursor()
    shop.world.kill(shop.home, f"{NAME}.web")
    shop.event(cursor, "assembly.state", "web", "", "failed", seconds=10)
    for resource in PROCESS:
        shop.event(cursor, "resource.state", "web", resource, "running")
    shop.running()
    assert {key: pid for key, pid in processes(shop).items() if key[0] == "db"} == {
        key: pid for key, pid in before.items() if key[0] == "db"
    }


def test_guest_hung_is_isolated_and_started_again(shop):
    cursor = shop.cursor()
    shop.world.hang(shop.home, f"{NAME}.web")
    shop.event(cursor, "isolation", "web", seconds=60)
    shop.event(cursor, "resource.state", "web", "program", "running", seconds=90)
    shop.running()


def test_escalation(shop):
    boot = {name: shop.guest(name, *BOOT) for name in ("db", "web")}
    start = shop.cursor()
    for number in (1, 2, 3):
        cursor = shop.cursor()
        shop.guest("db", "kill", "-9", process(shop, "db", "unit"))
        if number < 3:
            shop.event(cursor, "resource.state", "db", "unit", "running", seconds=30)
            shop.running()
    shop.event(start, "escalation", "db", "unit", seconds=30)
    shop.event(cursor, "assembly.state", "db", "", "running", seconds=60)
    shop.running()
    assert shop.guest("db", *BOOT) != boot["db"]
    assert shop.guest("web", *BOOT) == boot["web"], "the other guest was left alone"


def test_engine_killed(shop):
    before, cursor = processes(shop), shop.cursor()
    shop.kill_engines()
    shop.event(cursor, "resource.state", "web", "program", "running", seconds=60)
    shop.running()
    assert processes(shop) == before, "nothing that runs was restarted"


def test_daemon_killed(shop):
    before = processes(shop)
    shop.kill_daemon()
    shop.up()
    shop.running()
    assert processes(shop) == before, "nothing that runs was restarted"
    cursor = shop.cursor()
    shop.guest("db", "kill", "-9", before["db", "program"])
    shop.event(cursor, "resource.state", "db", "program", "running", seconds=30)
    shop.running()


def test_agent_killed(shop):
    """systemd starts it again; the engine connects again and finds everything as it was."""
    before = processes(shop)
    main = ["systemctl", "show", "-p", "MainPID", "--value", UNIT[shop.agent]]
    agent = shop.guest("web", *main)
    shop.guest("web", "kill", "-9", agent)
    shop.until(lambda: shop.guest("web", *main) not in ("0", agent), 30)
    shop.running()
    assert processes(shop) == before, "nothing that runs was restarted"
    cursor = shop.cursor()
    shop.guest("web", "kill", "-9", before["web", "program"])
    shop.event(cursor, "resource.state", "web", "program", "running", seconds=60)
    shop.running()


def test_a_resource_taken_out_of_the_manifest_is_stopped_in_the_running_guest(shop):
    before, boot = processes(shop), shop.guest("web", *BOOT)
    without = MANIFEST[: MANIFEST.index("  program:")] + MANIFEST[MANIFEST.index("assemblies:") :]
    shop.apply_text(without.replace("@AGENT@", shop.agent), "20m")
    shop.running()
    for assembly in ("db", "web"):
        alive = f"kill -0 {before[assembly, 'program']} 2>/dev/null && echo alive || echo ended"
        assert shop.guest(assembly, "sh", "-c", alive) == "ended"
        for resource in ("unit", "script"):
            assert process(shop, assembly, resource) == before[assembly, resource]
    assert shop.guest("web", *BOOT) == boot


def test_stopped(shop):
    shop.pcloud("stop", NAME, "--wait")
    assert shop.client.status(NAME).state.value == "stopped"
