"""Limits of resources: read, written and read again in each form, and refused where nobody could keep them."""

from __future__ import annotations

import pytest

from pcloud.model.deployable import ResourceLimits
from pcloud.model.errors import InvalidDocument
from pcloud.model.manifest import read_manifest, write_manifest
from pcloud.model.xml import read_xml, write_xml

SOME = ResourceLimits(memory=256, cpus=0.5, tasks=40)
TEXT = """
deployable: shop
assemblies:
  web:
    image: bookworm
    {assembly}
    resources:
      thing: {{{resource}, limits: {{memory: 256MiB, cpus: 0.5, tasks: 40}}}}
"""


def manifest(resource: str = "class: systemd, type: thing", assembly: str = "agent: pcloud") -> str:
    return TEXT.format(resource=resource, assembly=assembly)


def test_they_survive_every_form() -> None:
    found = read_manifest(manifest())
    assert found.assemblies[0].resources[0].limits == SOME
    assert read_manifest(write_manifest(found)) == found
    document = write_xml(found)
    assert b'memory="256" cpus="0.5" tasks="40"' in document
    assert read_xml(document) == found


@pytest.mark.parametrize(
    "resource", ["class: lsb, type: thing", "type: 'ocf:heartbeat:apache'", "class: service, type: x"]
)
def test_only_a_systemd_service_can_be_limited(resource: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        read_manifest(manifest(resource))
    assert [(p.code, p.path) for p in refused.value.problems] == [
        ("LIMITS_NOT_SUPPORTED", "assemblies.web.resources.thing.limits")
    ]


def test_pacemakers_own_agent_limits_nothing_but_by_ssh_it_need_not() -> None:
    with pytest.raises(InvalidDocument, match="Pacemaker's own agent"):
        read_manifest(manifest(assembly="agent: pacemaker"))
    assert read_manifest(manifest(assembly="transport: ssh")).assemblies[0].resources[0].limits == SOME
