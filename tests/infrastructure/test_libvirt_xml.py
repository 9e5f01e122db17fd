"""The documents for libvirt: values stay values, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure import libvirt_volume_xml as volume_xml
from pcloud.infrastructure import libvirt_xml as xml

_WORDS = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=("Cs", "Cc")), min_size=1, max_size=30
)


@given(guest=_WORDS, host=_WORDS, digest=_WORDS, network=_WORDS)
def test_records_and_plans_keep_any_text(guest, host, digest, network):
    record = xml.Record(guest_id=guest, deployable=guest, hostname=host, digest=digest, address="10.0.0.2")
    plan = xml.DomainPlan(
        name=guest, record=record, accelerator="tcg", memory=256, cpus=1, disk=host, seed=digest, kernel=network,
        initrd=host, command_line=network, network=network, console=digest,
    )  # fmt: skip
    root = etree.fromstring(xml.domain_document(plan).encode())
    assert root.findtext("name") == guest
    assert root.findtext("os/cmdline") == network
    assert root.find("devices/interface/source").get("network") == network
    assert root.find("devices/disk/source").get("file") == host
    element = root.find(f"metadata/{{{xml.NAMESPACE}}}guest")
    assert xml.parse_record(etree.tostring(element, encoding="unicode")) == record


@pytest.mark.parametrize(
    "text",
    ["", "<", "<a/>", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a guest_id="&x;"/>', "<a guest_id='x'/>"],
)
def test_strange_metadata_is_no_record(text):
    assert xml.parse_record(text) is None


def test_network_view_and_free_addresses():
    text = """<network><name>n</name><ip address='10.9.0.1' netmask='255.255.255.248'><dhcp>
      <host mac='52:54:00:00:00:01' name='a' ip='10.9.0.2'/>
      <host mac='52:54:00:00:00:02' ip='10.9.0.3'/></dhcp></ip></network>"""
    view = xml.parse_network(text)
    assert view == xml.NetworkView(
        gateway="10.9.0.1", prefix=29, leases={"52:54:00:00:00:01": "10.9.0.2", "52:54:00:00:00:02": "10.9.0.3"}
    )
    pytest.importorskip("libvirt")
    from pcloud.infrastructure.libvirt_network import free_address

    found = set()
    leases = dict(view.leases)
    for number in range(2):
        address = free_address(xml.NetworkView(gateway=view.gateway, prefix=29, leases=leases), "guest")
        assert address not in leases.values()
        leases[str(number)] = address
        found.add(address)
    assert found == {"10.9.0.4", "10.9.0.5"}
    with pytest.raises(InfrastructureError) as caught:
        free_address(xml.NetworkView(gateway=view.gateway, prefix=29, leases=leases), "guest")
    assert caught.value.permanent
    assert xml.parse_network("<network><forward mode='bridge'/></network>") is None


def test_forwarded_ports():
    ports = xml.format_ports([(22, 40022), (80, 40080)])
    assert xml.parse_ports(ports) == {22: ("127.0.0.1", 40022), 80: ("127.0.0.1", 40080)}
    assert xml.parse_ports("") == {}


def test_capabilities_are_the_drivers_own():
    from pcloud.infrastructure.capabilities import CAPABILITIES
    from pcloud.infrastructure.checks import checks_of
    from pcloud.infrastructure.lxc import LxcInfrastructure
    from pcloud.infrastructure.registry import DRIVERS

    assert CAPABILITIES.keys() == DRIVERS.keys()
    assert CAPABILITIES["lxc"] == LxcInfrastructure.capabilities
    for name in CAPABILITIES:
        first, *rest = checks_of(name)
        assert first.state == "ok"
        assert all(check.hint for check in rest if check.state == "missing")
    assert checks_of("deltacloud")[0].state == "missing"


def test_a_saved_domain_gets_another_disk_and_record():
    record = xml.Record(guest_id="shop.web", deployable="shop", hostname="web", digest="d", boot="1")
    plan = xml.DomainPlan(
        name="p-shop.web", record=record, accelerator="tcg", memory=256, cpus=1, disk="/p/web.base.qcow2",
        seed="/p/web.seed", network="net", console="/p/web.console",
    )  # fmt: skip
    saved = etree.fromstring(xml.domain_document(plan))
    vda = next(d for d in saved.findall("devices/disk") if d.find("target").get("dev") == "vda")
    etree.SubElement(vda, "backingStore", type="file").append(etree.Element("source", file="/p/image.qcow2"))
    text = etree.tostring(saved, encoding="unicode")
    changed = etree.fromstring(
        xml.restored_document(text, disk="/p/web.qcow2", record=msgspec.structs.replace(record, boot="2"))
    )
    disks = {d.find("target").get("dev"): d for d in changed.findall("devices/disk")}
    assert [s.get("file") for s in disks["vda"].iter("source")] == ["/p/web.qcow2"]
    assert disks["vda"].find("driver").get("type") == "qcow2"
    assert [s.get("file") for s in disks["vdb"].iter("source")] == ["/p/web.seed"]
    (mark,) = changed.findall(f"metadata/{{{xml.NAMESPACE}}}guest")
    assert mark.get("boot") == "2"
    assert changed.findtext("name") == "p-shop.web"
    snapshot = etree.fromstring(xml.snapshot_document(memory="/p/m", disk="/p/d"))
    named = {d.get("name"): d.get("snapshot") for d in snapshot.findall("disks/disk")}
    assert named == {"vda": "external", "vdb": "no"}, "every disk is named: libvirt would else choose"


@given(volume=_WORDS, name=_WORDS, folder=_WORDS)
def test_volumes_are_told_from_other_disks(volume, name, folder):
    """By where their files are, whatever their names hold."""
    file = volume.replace("/", "-").strip(".") or "x"
    where = Path("/p", folder.replace("/", "-").strip(".") or "x")
    disk = volume_xml.VolumeDisk(volume=file, path=str(where / f"{file}.img"), name=name, unit=3)
    record = xml.Record(guest_id="shop.web", deployable="shop", hostname="web", digest="d")
    plan = xml.DomainPlan(
        name="p-shop.web", record=record, accelerator="tcg", memory=256, cpus=1, disk=str(where / "deeper/web.img"),
        seed="/p/web.seed", network="net", console="/p/web.console", volumes=(disk,),
    )  # fmt: skip
    text = xml.domain_document(plan)
    assert volume_xml.disks_of(text, where) == [disk]
    assert volume_xml.disks_of(text, Path("/p/none")) == []
    assert volume_xml.has_controller(text)
    alone = etree.fromstring(volume_xml.document(disk))
    assert (alone.find("target").get("dev"), alone.findtext("serial"), alone.findtext("product")) == ("sdd", file, name)
    policies = {alone.find("driver").get(f"{kind}error_policy") for kind in ("", "r")}
    assert policies == {"report"}, "no room is the guest's error: libvirt would stop the machine"


def test_a_machine_has_so_many_volumes_and_no_more():
    assert list(volume_xml.free_units([0, 2], 2)) == [1, 3]
    with pytest.raises(InfrastructureError, match="all the volumes that it can have"):
        volume_xml.free_units(range(25), 2)
