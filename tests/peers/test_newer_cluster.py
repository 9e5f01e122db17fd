"""Pacemaker 3.0.0, Debian 13's, as the cluster that drives our agent, as remote node and as guest node.

The tests are those of the older one whose outcome depends on what cluster and agent say to each other.

It runs in a root of its own (built once), beside the same remote host as in `conftest`; its guest is one of Debian 13, whose
Python is 3.13.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pcloud.images.assembly import AssemblyImageSpec
from tests.guests import base
from tests.peers import test_cluster as older
from tests.peers.cluster import Cluster
from tests.peers.nodes import GuestNode, RemoteNode
from tests.peers.test_cluster import (  # noqa: F401 - collected here, too
    test_a_failure_is_recovered_at_once,
    test_a_guest_that_dies_is_started_again_with_its_service,
    test_a_killed_agent_comes_back_and_its_resources_ran_on,
    test_an_orderly_stop_of_the_agent_stops_its_resources_first,
    test_another_interval_cancels_the_old_monitor,
    test_maintenance_mode_leaves_things_alone,
    test_other_classes_in_a_guest,
    test_resources_outlive_a_restart_of_the_cluster,
    test_standby_empties_the_node,
    test_stop_and_start,
    test_stopping_a_guest_stops_its_service_first,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
PACKAGES = "corosync,pacemaker,pacemaker-cli-utils,pacemaker-resource-agents,resource-agents,iproute2,procps,lxc"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster of Debian 13's."""
    root = base("rootfs-cluster-trixie-lxc", PACKAGES, "trixie")
    made = Cluster(tmp_path_factory.mktemp("newer"), root)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def remote(cluster: Cluster) -> RemoteNode:
    """Its remote node, with a service that is monitored every second."""
    return RemoteNode(cluster)


@pytest.fixture(scope="module")
def guest(remote: RemoteNode) -> GuestNode:
    """Its guest node, Debian 13 itself, with a service that is monitored every second."""
    return GuestNode(remote.cluster, AssemblyImageSpec(jeos="trixie"))


def test_it_is_the_newer_one(cluster, guest):
    assert "Pacemaker 3." in cluster.run("cluster", "crm_mon", "--version")
    assert "/python3.13" in guest.run("readlink", f"/proc/{guest.agent()}/exe")


@pytest.mark.parametrize(("node", "how"), [("remote", "kill"), ("guest", "stop"), ("guest", "kill")], indirect=["node"])
def test_fencing(fencing, node, how):
    """The less of the older cluster's ways to break a node: each takes long."""
    older.test_fencing(fencing, node, how)
