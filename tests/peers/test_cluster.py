"""A real corosync + Pacemaker cluster drives our agent, as remote node and as guest node: failure, cancel, stop,
maintenance mode, standby, restart of the cluster and of the agent, fencing.

One cluster for all tests of this folder: starting one takes half a minute. Each test leaves it as it found it.
"""

import itertools
import re
import signal
import time
from xml.etree import ElementTree

import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


def test_a_failure_is_recovered_at_once(cluster, node):
    """The monitor's interval is an hour: only the exit of the process can tell."""
    name = f"{node.service}-slow"
    cluster.service(name, node.name, interval="1h")
    cluster.wait_where(name, node.name)
    cluster.until(lambda: cluster.calls(name).count("monitor") >= 2, 60, "probe and first monitor")
    before = cluster.calls(name).count("start")
    node.kill_service(name)
    cluster.until(lambda: cluster.calls(name).count("start") > before, 60, f"recovery of {name}")
    cluster.wait_where(name, node.name)
    # A failure as any other; an hour is written so and so.
    assert re.search(rf"{name} (60m|1h)-interval monitor on {node.name}", cluster.run("cluster", "crm_mon", "-1rf"))
    cluster.run("cluster", "crm_resource", "-C", "-r", name)
    cluster.remove(name)


def test_another_interval_cancels_the_old_monitor(cluster, node):
    name = node.service
    cluster.run("cluster", "cibadmin", "-M", "-o", "resources", "-X", f'<op id="{name}-m" interval="30s"/>')
    cluster.until(lambda: f"{name}_monitor_30000" in _history(cluster, node), 30, "the new monitor")
    cluster.until(lambda: f"{name}_monitor_1000" not in _history(cluster, node), 30, "the old monitor's end")
    calls = len(cluster.calls(name))
    time.sleep(2.5)
    assert len(cluster.calls(name)) <= calls + 1
    cluster.run("cluster", "cibadmin", "-M", "-o", "resources", "-X", f'<op id="{name}-m" interval="1s"/>')
    cluster.until(lambda: f"{name}_monitor_1000" in _history(cluster, node), 30, "the first monitor again")


def _history(cluster, node) -> list[str]:
    status = ElementTree.fromstring(cluster.run("cluster", "cibadmin", "-Q", "-o", "status"))
    return [
        operation.get("operation_key", "")
        for operation in status.iterfind(f".//node_state[@id='{node.name}']//lrm_rsc_op")
        if not operation.get("id", "").endswith("_last_failure_0")
    ]


def test_stop_and_start(cluster, node):
    cluster.meta(node.service, "target-role", "Stopped")
    cluster.wait_where(node.service, "")
    cluster.until(lambda: cluster.calls(node.service)[-1] == "stop", 20, "the stop")
    cluster.meta(node.service, "target-role", "Started")
    cluster.wait_where(node.service, node.name)


def test_maintenance_mode_leaves_things_alone(cluster, node):
    cluster.option("maintenance-mode", "true")
    cluster.until(cluster.idle, 30, "the cluster idle")
    calls = cluster.calls(node.service)
    node.kill_service(node.service)
    time.sleep(3)
    assert "start" not in cluster.calls(node.service)[len(calls) :]
    assert "stop" not in cluster.calls(node.service)[len(calls) :]
    cluster.option("maintenance-mode", "false")
    cluster.until(lambda: "start" in cluster.calls(node.service)[len(calls) :], 40, "the start after maintenance")
    cluster.wait_where(node.service, node.name)


def test_standby_empties_the_node(cluster, node):
    """A service that prefers the node, and may run elsewhere: 2.1.5 leaves on a guest node what has no other place."""
    name = f"{node.service}-moves"
    cluster.service(name, node.name, pinned=False)
    cluster.wait_where(name, node.name)
    calls = len(cluster.calls(name))
    cluster.run("cluster", "crm_standby", "-N", node.name, "-v", "on")
    cluster.until(lambda: cluster.where(name) not in ("", node.name), 60, f"{name} elsewhere")
    cluster.run("cluster", "crm_standby", "-N", node.name, "-v", "off")
    cluster.wait_where(name, node.name)
    assert [call for call in cluster.calls(name)[calls:] if call != "monitor"] == ["stop", "start", "stop", "start"]
    cluster.wait_where(node.service, node.name)
    cluster.remove(name)


def test_resources_outlive_a_restart_of_the_cluster(cluster, remote, guest):
    """Both nodes at once, since it takes long: the container and the services in both run on."""
    nodes = (remote, guest)
    pids = [cluster.pid(node.service) for node in nodes]
    boot = guest.boot()
    cluster.option("maintenance-mode", "true")
    cluster.until(cluster.idle, 30, "the cluster idle")
    calls = [len(cluster.calls(node.service)) for node in nodes]
    cluster.stop_pacemaker()
    for node, pid in zip(nodes, pids, strict=True):
        node.run("kill", "-0", pid)
    cluster.start_pacemaker()
    cluster.option("maintenance-mode", "false")
    for node in nodes:
        cluster.until(lambda node=node: cluster.online(node.name), 90, f"{node.name} online")
        cluster.wait_where(node.service, node.name)
    cluster.until(cluster.idle, 30, "the cluster idle")
    assert guest.boot() == boot
    assert [cluster.pid(node.service) for node in nodes] == pids
    for node, before in zip(nodes, calls, strict=True):
        since = cluster.calls(node.service)[before:]
        assert "monitor" in since, "the cluster looked"
        assert "start" not in since
        assert "stop" not in since


def test_an_orderly_stop_of_the_agent_stops_its_resources_first(cluster, node):
    calls, asked = len(cluster.calls(node.service)), len(cluster.fenced())
    node.stop_agent()
    cluster.until(lambda: "stop" in cluster.calls(node.service)[calls:], 30, "the stop of what runs there")

    changes = itertools.count(60)

    def back() -> bool:
        if "start" in cluster.calls(node.service)[calls:] and cluster.where(node.service) == node.name:
            return True
        if cluster.idle():
            # After an orderly stop a cluster connects again at its next transition only, whoever the agent is. Any change
            # makes one.
            cluster.option("cluster-delay", f"{next(changes)}s")
        return False

    cluster.until(back, 120, f"{node.service} on {node.name} again")
    assert len(cluster.fenced()) == asked


def test_a_killed_agent_comes_back_and_its_resources_ran_on(cluster, remote):
    """Without fencing: the cluster connects again and finds everything as it was."""
    # A monitor that the cluster asked for and never hears of again holds up its transition: nothing may be under way.
    cluster.until(cluster.idle, 120, "the cluster idle")
    pid = cluster.pid(remote.service)
    remote.kill_agent()
    calls = len(cluster.calls(remote.service))
    cluster.until(lambda: len(cluster.calls(remote.service)) > calls, 60, "a look at the service through the new agent")
    cluster.until(lambda: cluster.online("remote1"), 60, "the remote node online")
    cluster.wait_where(remote.service, "remote1")
    assert cluster.pid(remote.service) == pid


@pytest.mark.parametrize(
    ("node", "how"),
    # A guest node that is cut off is as silent as one whose agent hangs; a cluster takes more than a minute to notice.
    [("remote", "kill"), ("remote", "stop"), ("remote", "cut"), ("guest", "kill"), ("guest", "stop")],
    indirect=["node"],
)
def test_fencing(fencing, node, how):
    """Killed, hung (SIGSTOP), cut off: the cluster fences the node, and takes it back after. A remote node is fenced by the
    fence agent; a guest node by the end of its container, which the cluster starts again."""
    cluster = fencing
    cluster.wait_where(node.service, node.name)
    cluster.until(cluster.idle, 120, "the cluster idle")
    asked, starts = len(cluster.fenced()), cluster.calls(node.service).count("start")
    boot = node.boot()
    begun = time.monotonic()
    if how == "kill":
        node.signal_agent(signal.SIGKILL)
    elif how == "stop":
        node.signal_agent(signal.SIGSTOP)
    else:
        node.cut_off()
    if node.fenced_by_agent:
        cluster.until(lambda: len(cluster.fenced()) > asked, 600, "fencing")
        assert cluster.fenced()[-1].split()[1] == node.name
    else:
        cluster.until(lambda: node.boot() not in ("", boot), 600, "another container")
        assert len(cluster.fenced()) == asked
    print(f"fenced after {time.monotonic() - begun:.1f} s")
    cluster.until(lambda: cluster.calls(node.service).count("start") > starts, 120, "the start after fencing")
    cluster.wait_where(node.service, node.name, 120)


def test_a_guest_that_dies_is_started_again_with_its_service(cluster, guest):
    starts, boot = cluster.calls(guest.service).count("start"), guest.boot()
    guest.kill()
    cluster.until(lambda: cluster.calls(guest.service).count("start") > starts, 90, "the start in the new container")
    cluster.wait_where(guest.service, "guest1", 60)
    assert guest.boot() != boot


def test_stopping_a_guest_stops_its_service_first(cluster, guest):
    cluster.meta("g1", "target-role", "Stopped")
    cluster.wait_where("g1", "")
    assert cluster.calls(guest.service)[-1] == "stop"
    assert not (cluster.state / guest.service / "pid").exists()
    cluster.meta("g1", "target-role", "Started")
    cluster.wait_where(guest.service, "guest1", 90)


PROCESS = {
    "systemd:thing": ("systemctl", "show", "-p", "MainPID", "--value", "thing"),
    "lsb:daemon": ("cat", "/run/daemon.pid"),
}
"""Resources of the other classes in the guest, and what tells their process."""


@pytest.mark.parametrize("agent", PROCESS)
def test_other_classes_in_a_guest(cluster, guest, agent):
    """A monitor an hour: only the exit of the process can tell."""
    name = f"{guest.service}-{agent.partition(':')[0]}"
    cluster.service(name, guest.name, interval="1h", agent=agent)
    cluster.wait_where(name, guest.name)
    cluster.until(cluster.idle, 60, "the cluster idle")
    before = guest.run(*PROCESS[agent])
    guest.run("kill", "-9", before)
    cluster.until(lambda: guest.run(*PROCESS[agent], check=False) not in ("", "0", before), 60, f"recovery of {agent}")
    cluster.wait_where(name, guest.name)
    cluster.run("cluster", "crm_resource", "-C", "-r", name)
    cluster.remove(name)
    assert guest.run("sh", "-c", "ls /run/systemd/system/thing.service.d 2>/dev/null || true") == ""
