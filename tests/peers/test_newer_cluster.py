"""Pacemaker 3.0.0, Debian 13's, as the cluster that drives our agent: start, failure, cancel, stop, restart of the agent.

It runs in a root of its own (built once), beside the same remote host as in `conftest`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guests import base
from tests.peers.cluster import Cluster
from tests.peers.nodes import RemoteNode

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
PACKAGES = "corosync,pacemaker,pacemaker-cli-utils,pacemaker-resource-agents,resource-agents,iproute2,procps"


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteNode]:
    """A remote node of a running cluster of Debian 13's."""
    root = base("rootfs-cluster-trixie", PACKAGES, "trixie")
    made = Cluster(tmp_path_factory.mktemp("newer"), root)
    try:
        made.start()
        yield RemoteNode(made)
    finally:
        made.stop()


def test_it_is_the_newer_one(newer):
    assert "Pacemaker 3." in newer.cluster.run("cluster", "crm_mon", "--version")


def test_a_failure_is_recovered(newer):
    """The second service's monitor comes once an hour: only the exit of its process can tell."""
    cluster = newer.cluster
    name = "d1-slow"
    cluster.service(name, newer.name, interval="1h")
    cluster.wait_where(name, newer.name)
    cluster.until(cluster.idle, 60, "the cluster idle")
    for service in (newer.service, name):
        before = cluster.calls(service).count("start")
        newer.kill_service(service)
        cluster.until(lambda s=service, n=before: cluster.calls(s).count("start") > n, 60, f"recovery of {service}")
        cluster.wait_where(service, newer.name)
    cluster.run("cluster", "crm_resource", "-C", "-r", name)
    cluster.remove(name)
    assert cluster.calls(newer.service)[-1] != "stop"


def test_stop_and_start(newer):
    cluster = newer.cluster
    cluster.meta(newer.service, "target-role", "Stopped")
    cluster.wait_where(newer.service, "")
    assert cluster.calls(newer.service)[-1] == "stop"
    cluster.meta(newer.service, "target-role", "Started")
    cluster.wait_where(newer.service, newer.name)


def test_a_killed_agent_comes_back_and_its_resources_ran_on(newer):
    cluster = newer.cluster
    cluster.until(cluster.idle, 120, "the cluster idle")
    pid = cluster.pid(newer.service)
    newer.kill_agent()
    cluster.until(lambda: cluster.online(newer.name), 90, "the remote node online")
    cluster.wait_where(newer.service, newer.name)
    assert cluster.pid(newer.service) == pid
