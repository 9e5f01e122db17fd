"""One real cluster with our agent as its remote node and as its guest node, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.cluster import Cluster
from tests.peers.nodes import GuestNode, RemoteNode


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The running cluster."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="package")
def remote(cluster: Cluster) -> RemoteNode:
    """The remote node, with a service that is monitored every second."""
    return RemoteNode(cluster)


@pytest.fixture(scope="package")
def guest(remote: RemoteNode) -> GuestNode:
    """The guest node, with a service that is monitored every second."""
    return GuestNode(remote.cluster)


@pytest.fixture(params=["remote", "guest"])
def node(request: pytest.FixtureRequest) -> RemoteNode | GuestNode:
    """Each of the two."""
    found: RemoteNode | GuestNode = request.getfixturevalue(request.param)
    found.cluster.wait_where(found.service, found.name)
    return found


@pytest.fixture
def fencing(cluster: Cluster, remote: RemoteNode) -> Iterator[Cluster]:
    """The cluster with fencing enabled, by a fake fence agent that asks the tests."""
    if not cluster.run("cluster", "crm_resource", "-r", "fencing", "-q", "-Q", check=False).strip():
        cluster.create(
            "resources",
            '<primitive id="fencing" class="stonith" type="fence_test"><instance_attributes id="fencing-i">'
            '<nvpair id="fencing-i-l" name="pcmk_host_list" value="remote1 guest1"/>'
            '<nvpair id="fencing-i-c" name="pcmk_host_check" value="static-list"/></instance_attributes></primitive>',
        )
    cluster.option("stonith-enabled", "true")
    cluster.wait_where("fencing", "node1")
    yield cluster
    cluster.option("stonith-enabled", "false")
    cluster.run("cluster", "crm_resource", "-C")
