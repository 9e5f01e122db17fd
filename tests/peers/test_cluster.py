"""A real corosync + Pacemaker cluster drives our agent, as remote node and as guest node: failure, cancel, stop,
maintenance mode, standby, restart of the cluster and of the agent, fencing.

One cluster for the whole module: starting one takes a minute. Each test leaves it as it found it.
"""

import signal
import sys
import time
from xml.etree import ElementTree

import pytest

from tests.peers.cluster import Cluster
from tests.remoted import SOURCE

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start()
        made.start_agent()
        made.create(
            "resources",
            '<primitive id="remote1" class="ocf" provider="pacemaker" type="remote"><instance_attributes id="remote1-i">'
            f'<nvpair id="remote1-i-s" name="server" value="{made.remote_address}"/>'
            '<nvpair id="remote1-i-r" name="reconnect_interval" value="2s"/></instance_attributes><operations>'
            '<op id="remote1-m" name="monitor" interval="3s" timeout="5s"/></operations></primitive>',
        )
        made.service("d1", "remote1", interval="1s")
        made.wait_where("d1", "remote1")
        yield made
    finally:
        made.stop()


def test_a_failure_is_recovered_at_once(cluster):
    """The monitor's interval is a minute: only the exit of the process can tell so soon."""
    cluster.service("d2", "remote1", interval="60s")
    cluster.wait_where("d2", "remote1")
    cluster.until(lambda: cluster.calls("d2").count("monitor") >= 2, 20, "probe and first monitor")
    before = cluster.calls("d2").count("start")
    begun = time.monotonic()
    cluster.run("remote", "kill", "-9", cluster.pid("d2"))
    cluster.until(lambda: cluster.calls("d2").count("start") > before, 20, "recovery of d2")
    assert time.monotonic() - begun < 10
    cluster.wait_where("d2", "remote1")
    assert "d2 60s-interval monitor on remote1" in cluster.run("cluster", "crm_mon", "-1rf")  # a failure as any other
    cluster.run("cluster", "crm_resource", "-C", "-r", "d2")
    cluster.wait_where("d2", "remote1")


def test_another_interval_cancels_the_old_monitor(cluster):
    cluster.wait_where("d1", "remote1")
    cluster.run("cluster", "cibadmin", "-M", "-o", "resources", "-X", '<op id="d1-m" interval="30s"/>')
    cluster.until(lambda: "d1_monitor_30000" in _history(cluster), 30, "the new monitor")
    cluster.until(lambda: "d1_monitor_1000" not in _history(cluster), 30, "the old monitor's end")
    calls = len(cluster.calls("d1"))
    time.sleep(2.5)
    assert len(cluster.calls("d1")) <= calls + 1
    cluster.run("cluster", "cibadmin", "-M", "-o", "resources", "-X", '<op id="d1-m" interval="1s"/>')
    cluster.until(lambda: "d1_monitor_1000" in _history(cluster), 30, "the first monitor again")


def _history(cluster) -> list[str]:
    status = ElementTree.fromstring(cluster.run("cluster", "cibadmin", "-Q", "-o", "status"))
    return [
        operation.get("operation_key", "")
        for operation in status.iterfind(".//node_state[@id='remote1']//lrm_rsc_op")
        if not operation.get("id", "").endswith("_last_failure_0")
    ]


def test_stop_and_start(cluster):
    cluster.meta("d1", "target-role", "Stopped")
    cluster.wait_where("d1", "")
    cluster.until(lambda: cluster.calls("d1")[-1] == "stop", 20, "d1's stop")
    cluster.meta("d1", "target-role", "Started")
    cluster.wait_where("d1", "remote1")


def test_maintenance_mode_leaves_things_alone(cluster):
    cluster.option("maintenance-mode", "true")
    calls = cluster.calls("d1")
    cluster.run("remote", "kill", "-9", cluster.pid("d1"))
    time.sleep(3)
    assert "start" not in cluster.calls("d1")[len(calls) :]
    assert "stop" not in cluster.calls("d1")[len(calls) :]
    cluster.option("maintenance-mode", "false")
    cluster.until(lambda: "start" in cluster.calls("d1")[len(calls) :], 40, "d1's start after maintenance")
    cluster.wait_where("d1", "remote1")


def test_standby_empties_the_node(cluster):
    cluster.run("cluster", "crm_standby", "-N", "remote1", "-v", "on")
    cluster.wait_where("d1", "")
    cluster.run("cluster", "crm_standby", "-N", "remote1", "-v", "off")
    cluster.wait_where("d1", "remote1")


def test_resources_outlive_a_restart_of_the_cluster(cluster):
    pid = cluster.pid("d1")
    for name in ("d1", "d2"):
        cluster.meta(name, "is-managed", "false")
    cluster.until(cluster.idle, 30, "the cluster idle")
    calls = cluster.calls("d1")
    cluster.stop_pacemaker()
    cluster.run("remote", "kill", "-0", pid)
    cluster.start_pacemaker()
    cluster.until(lambda: cluster.online("remote1"), 90, "the remote node online")
    for name in ("d1", "d2"):
        cluster.meta(name, "is-managed", "true")
    cluster.wait_where("d1", "remote1")
    cluster.until(cluster.idle, 30, "the cluster idle")
    assert cluster.pid("d1") == pid
    assert "start" not in cluster.calls("d1")[len(calls) :]
    assert "stop" not in cluster.calls("d1")[len(calls) :]


def test_an_orderly_stop_of_the_agent_stops_its_resources_first(cluster):
    calls = cluster.calls("d1")
    cluster.signal_agent(signal.SIGTERM)
    assert cluster.agent.wait(60) == 0
    assert "stop" in cluster.calls("d1")[len(calls) :]
    assert cluster.fenced() == []
    cluster.start_agent()
    # After an orderly stop a cluster connects again at its next transition only, whoever the agent is.
    cluster.option("cluster-delay", f"{60 + int(time.time()) % 60}s")  # any change makes one
    cluster.wait_where("d1", "remote1", 120)


def test_a_killed_agent_comes_back_and_its_resources_ran_on(cluster):
    """Without fencing: the cluster connects again and finds everything as it was."""
    # A monitor that the cluster asked for and never hears of again holds up its transition: nothing may be under way.
    cluster.until(cluster.idle, 120, "the cluster idle")
    pid = cluster.pid("d1")
    cluster.signal_agent(signal.SIGKILL)
    cluster.agent.wait(10)
    cluster.start_agent()
    cluster.until(lambda: cluster.online("remote1"), 60, "the remote node online")
    cluster.wait_where("d1", "remote1")
    assert cluster.pid("d1") == pid


@pytest.mark.parametrize("how", ["kill", "stop", "cut"])
def test_fencing(cluster, how):
    """Killed, hung (SIGSTOP), cut off: the cluster fences the node, and takes it back after."""
    if not cluster.run("cluster", "crm_resource", "-r", "fencing", "-q", "-Q", check=False).strip():
        cluster.create(
            "resources",
            '<primitive id="fencing" class="stonith" type="fence_test"><instance_attributes id="fencing-i">'
            '<nvpair id="fencing-i-l" name="pcmk_host_list" value="remote1 guest1"/>'
            '<nvpair id="fencing-i-c" name="pcmk_host_check" value="static-list"/></instance_attributes></primitive>',
        )
    cluster.option("stonith-enabled", "true")
    cluster.wait_where("fencing", "node1")
    cluster.wait_where("d1", "remote1")
    cluster.until(cluster.idle, 120, "the cluster idle")
    before, starts = len(cluster.fenced()), cluster.calls("d1").count("start")
    link = cluster.links[1]

    def reset() -> None:
        """What a power switch does: everything on the host ends; it boots again, with the agent."""
        for name in ("d1", "d2"):
            if (cluster.state / name / "pid").exists():
                cluster.run("remote", "kill", "-9", cluster.pid(name), check=False)
        if cluster.agent.poll() is None:
            cluster.signal_agent(signal.SIGKILL)
            cluster.agent.wait(10)
        cluster.run("remote", "ip", "link", "set", link, "up")
        cluster.start_agent()

    cluster.fence = reset
    begun = time.monotonic()
    if how == "kill":
        cluster.signal_agent(signal.SIGKILL)
    elif how == "stop":
        cluster.signal_agent(signal.SIGSTOP)
    else:
        cluster.run("remote", "ip", "link", "set", link, "down")
    cluster.until(lambda: len(cluster.fenced()) > before, 90, "fencing")
    print(f"fenced after {time.monotonic() - begun:.1f} s")
    assert cluster.fenced()[-1].split()[1] == "remote1"
    cluster.until(lambda: cluster.calls("d1").count("start") > starts, 120, "d1's start after fencing")
    cluster.wait_where("d1", "remote1", 120)
    cluster.option("stonith-enabled", "false")
    cluster.run("cluster", "crm_resource", "-C")


def test_guest_node(cluster):
    """Our agent inside a resource that the cluster manages (remote-node meta-data)."""
    agent = f"{sys.executable} -I -S {SOURCE}/pcloud/agent/boot.py"
    command = f"exec {agent} --address 127.0.0.1 --port 3199 --log-level debug"
    cluster.create(
        "resources",
        '<primitive id="g1" class="ocf" provider="test" type="guest"><instance_attributes id="g1-i">'
        f'<nvpair id="g1-i-c" name="command" value="{command}"/><nvpair id="g1-i-s" name="state" value="/run/g1.pid"/>'
        '</instance_attributes><meta_attributes id="g1-a"><nvpair id="g1-a-n" name="remote-node" value="guest1"/>'
        '<nvpair id="g1-a-a" name="remote-addr" value="127.0.0.1"/><nvpair id="g1-a-p" name="remote-port" value="3199"/>'
        '</meta_attributes><operations><op id="g1-m" name="monitor" interval="5s" timeout="10s"/></operations></primitive>',
    )
    cluster.create("constraints", '<rsc_location id="l-g1" rsc="g1" node="remote1" score="-INFINITY"/>')
    cluster.service("d3", "guest1", interval="60s")
    cluster.wait_where("g1", "node1")
    cluster.wait_where("d3", "guest1", 90)
    # The service fails: recovered inside the guest.
    starts = cluster.calls("d3").count("start")
    cluster.until(lambda: cluster.calls("d3")[-1] == "monitor", 20, "d3's monitor")
    cluster.run("cluster", "kill", "-9", cluster.pid("d3"))
    cluster.until(lambda: cluster.calls("d3").count("start") > starts, 30, "recovery of d3")
    cluster.wait_where("d3", "guest1")
    # The guest dies: started again, and its service in it.
    starts = cluster.calls("d3").count("start")
    cluster.run("cluster", "sh", "-c", "kill -9 $(cat /run/g1.pid)")
    cluster.run("cluster", "kill", "-9", cluster.pid("d3"))
    cluster.until(lambda: cluster.calls("d3").count("start") > starts, 90, "start of d3 in the new guest")
    cluster.wait_where("d3", "guest1", 60)
    # Stopping the guest stops its service first, in order.
    cluster.meta("g1", "target-role", "Stopped")
    cluster.wait_where("g1", "")
    assert cluster.calls("d3")[-1] == "stop"
    assert not (cluster.state / "d3" / "pid").exists()
