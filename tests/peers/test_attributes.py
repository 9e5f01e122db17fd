"""Cluster IPC through our agent: Debian's own tools, and an OCF agent that uses them, on nodes without a cluster stack."""

from __future__ import annotations

import subprocess
import threading

import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


def attribute(cluster, name: str, node: str = "remote1") -> str:
    """A transient attribute's value, as the cluster has it."""
    return cluster.run("cluster", "attrd_updater", "-Q", "-n", name, "-N", node, check=False)


def test_attrd_updater_sets_reads_and_deletes(cluster, node):
    node.run("attrd_updater", "-n", "colour", "-U", "blue & <green>")
    cluster.until(
        lambda: "blue & <green>" in attribute(cluster, "colour", node.name), 10, "the attribute in the cluster"
    )
    # Set for the node it was called on, though it told no name.
    assert f'host="{node.name}"' in attribute(cluster, "colour", node.name)
    assert "blue & <green>" in node.run("attrd_updater", "-Q", "-n", "colour", "-N", node.name)
    node.run("attrd_updater", "-n", "colour", "-D")
    cluster.until(lambda: "blue" not in attribute(cluster, "colour", node.name), 10, "the attribute gone")


def test_the_node_learns_its_name(node):
    assert node.run("crm_node", "-n").strip() == node.name


def test_crm_attribute_reads_and_writes_the_configuration(cluster, node):
    which = ["crm_attribute", "-N", node.name, "-n", "site"]
    node.run(*which, "-v", "north")
    assert "value=north" in cluster.run("cluster", *which, "-G")
    assert "value=north" in node.run(*which, "-G")
    node.run(*which, "-D")
    assert "north" not in cluster.run("cluster", *which, "-G", check=False)


def test_a_large_answer(cluster, remote):
    """The whole configuration, larger than a message may be: it travels compressed on the last step."""
    cluster.run("cluster", "cibadmin", "-C", "-o", "resources", "-p", stdin=BIG)
    try:
        there = remote.run("cibadmin", "-Q", "-o", "resources")
        assert there == cluster.run("cluster", "cibadmin", "-Q", "-o", "resources")
        assert len(there) > 150_000
    finally:
        cluster.run("cluster", "cibadmin", "-D", "-X", '<primitive id="big"/>')


BIG = (
    '<primitive id="big" class="ocf" provider="test" type="service"><meta_attributes id="big-m">'
    '<nvpair id="big-t" name="target-role" value="Stopped"/></meta_attributes><instance_attributes id="big-i">'
    + "".join(f'<nvpair id="big-{n}" name="p{n}" value="{"v" * 200}"/>' for n in range(700))
    + "</instance_attributes></primitive>"
)


def test_an_agent_sets_attributes(cluster, node):
    """`crm_node` and `attrd_updater` from inside an OCF agent's start and stop."""
    name = f"{node.service}-tells"
    cluster.service(name, node.name, interval="60s", agent="attributes")
    cluster.wait_where(name, node.name)
    cluster.until(lambda: "started" in attribute(cluster, f"test-{name}", node.name), 10, "what the start set")
    assert (cluster.state / name / "name").read_text().strip() == node.name
    cluster.meta(name, "target-role", "Stopped")
    cluster.until(lambda: "started" not in attribute(cluster, f"test-{name}", node.name), 20, "what the stop deleted")
    cluster.remove(name)


def test_many_at_once(cluster, remote):
    """With Pacemaker's own daemon all thirty time out: the controller takes a second for each of a burst.

    A tool gives up after 5 s, which a busy machine's controller may need for some of them; those try again.
    """
    waiting = set(range(30))

    def update(number: int) -> None:
        done = subprocess.run(
            cluster.command("remote", "attrd_updater", "-n", f"many-{number}", "-U", f"<{number}>"),
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            waiting.discard(number)

    def all_through() -> bool:
        threads = [threading.Thread(target=update, args=(number,)) for number in waiting]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return not waiting

    cluster.until(all_through, 30, "all thirty updates")
    for number in range(30):
        cluster.until(lambda number=number: f"<{number}>" in attribute(cluster, f"many-{number}"), 10, "each of them")
        remote.run("attrd_updater", "-n", f"many-{number}", "-D")
    folders = ["sh", "-c", "ls -d /dev/shm/qb-pcloud-* 2>/dev/null || true"]
    cluster.until(lambda: remote.run(*folders) == "", 10, "no session's folder left behind")


def test_a_user_outside_the_clusters_group_is_refused(cluster, remote):
    stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    remote.run(*stranger, "attrd_updater", "-n", "stolen", "-U", "yes", check=False)
    assert "stolen" not in attribute(cluster, "stolen")
    # A member of the cluster's group may.
    member = ["setpriv", "--reuid=65534", "--regid=haclient", "--clear-groups", "--"]
    remote.run(*member, "attrd_updater", "-n", "granted", "-U", "yes")
    cluster.until(lambda: "yes" in attribute(cluster, "granted"), 10, "the attribute in the cluster")
    remote.run("attrd_updater", "-n", "granted", "-D")


def test_the_agent_killed_with_a_session_open(cluster, remote):
    """What the session had below /dev/shm is removed by the next agent; the relay works again."""
    folders = ["sh", "-c", "ls -d /dev/shm/qb-pcloud-* || true"]
    page = ["--output-as=html", "--output-to=/run/page.html"]
    remote.run("crm_mon", "--daemonize", "--interval=1s", "--pid-file=/run/crm_mon.pid", *page)
    cluster.until(lambda: remote.run(*folders) != "", 20, "a session that stays")
    before = remote.run(*folders).split()
    remote.kill_agent()

    def works() -> bool:
        remote.run("attrd_updater", "-n", "after", "-U", "restart", check=False)
        return "restart" in attribute(cluster, "after")

    cluster.until(works, 60, "the relay of the new agent")
    remote.run("pkill", "-x", "crm_mon", check=False)
    assert not set(before) & set(remote.run(*folders).split())
    cluster.wait_where(remote.service, "remote1")
    remote.run("attrd_updater", "-n", "after", "-D")
