"""The documents that libvirt is given and gives: pure, built and read as trees, never as text.

Source: libvirt's "Domain XML format", "Network XML format", "Storage volume XML format". What libvirt returns is read
by lxml without entities and network, though it comes from a daemon that we trust.
"""

from __future__ import annotations

import hashlib
import ipaddress
import uuid
from collections.abc import Iterable, Mapping

import msgspec
from lxml import etree

from pcloud.infrastructure import libvirt_volume_xml as volume_xml

NAMESPACE = "https://pacemaker-cloud.org/xmlns/guest/1"
_SEED = "vdb"
SEED_SERIAL = "pcloud-seed"
"""What the seed's disk says of itself in the guest."""
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain carries of ours, in its metadata: libvirt keeps it, so that we need no file of our own."""

    guest_id: str
    deployable: str
    hostname: str
    digest: str
    address: str = ""
    boot: str = ""
    """Made anew at each start by us."""
    ports: str = ""
    """Forwarded ports as `GUEST:HOST`, with spaces between."""


class DomainPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the domain's document says."""

    name: str
    record: Record
    accelerator: str
    memory: int
    cpus: int
    disk: str
    seed: str
    kernel: str = ""
    initrd: str = ""
    command_line: str = ""
    network: str = ""
    """Empty for user-mode networking."""
    console: str = ""
    firewall: str = ""
    """Name of its network filter; empty for none."""
    volumes: tuple[volume_xml.VolumeDisk, ...] = ()


def mac_address(name: str) -> str:
    """Return the MAC address of a guest: its name decides it."""
    digest = hashlib.sha256(name.encode()).digest()
    return "52:54:" + ":".join(f"{byte:02x}" for byte in digest[:4])


def domain_document(plan: DomainPlan) -> str:
    """Return the domain's document."""
    kvm = plan.accelerator == "kvm"
    root = etree.Element("domain", type="kvm" if kvm else "qemu", nsmap={"qemu": _QEMU})
    _text(root, "name", plan.name)
    _text(root, "uuid", str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}/{plan.name}")))
    metadata = etree.SubElement(root, "metadata")
    metadata.append(record_element(plan.record))
    etree.SubElement(
        root, "genid"
    )  # another one at each restore, for kernels that ask for it (Debian's for clouds does not)
    _text(root, "memory", str(plan.memory), unit="MiB")
    _text(root, "vcpu", str(plan.cpus))
    os_ = etree.SubElement(root, "os")
    _text(os_, "type", "hvm", arch="x86_64", machine="q35")
    if plan.kernel:
        for name, value in (("kernel", plan.kernel), ("initrd", plan.initrd), ("cmdline", plan.command_line)):
            _text(os_, name, value)
    features = etree.SubElement(root, "features")
    etree.SubElement(features, "acpi")
    if not kvm:
        _text(etree.SubElement(features, "tcg"), "tb-cache", "64", unit="MiB")
    else:
        etree.SubElement(root, "cpu", mode="host-passthrough")
    etree.SubElement(root, "clock", offset="utc")
    for name, value in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(root, name, value)
    devices = etree.SubElement(root, "devices")
    _disk(devices, plan.disk, "vda", "qcow2")
    # As a disk, not a CD-ROM: kernels for clouds have drivers for virtio only, and cloud-init looks for a label.
    _disk(devices, plan.seed, _SEED, "raw")
    devices.append(volume_xml.controller())
    devices.extend(volume_xml.element(each) for each in plan.volumes)
    if plan.network:
        interface = etree.SubElement(devices, "interface", type="network")
        etree.SubElement(interface, "mac", address=mac_address(plan.name))
        etree.SubElement(interface, "source", network=plan.network)
        etree.SubElement(interface, "model", type="virtio")
        if plan.firewall:
            etree.SubElement(interface, "filterref", filter=plan.firewall)
    serial = etree.SubElement(devices, "serial", type="file")
    etree.SubElement(serial, "source", path=plan.console, append="on")  # else each start would empty it
    channel = etree.SubElement(devices, "channel", type="unix")
    etree.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    etree.SubElement(devices, "panic", model="isa")
    rng = etree.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    etree.SubElement(devices, "memballoon", model="virtio")
    if not plan.network:
        _user_network(root, plan)
    return etree.tostring(root, encoding="unicode")


def record_element(record: Record) -> etree._Element:
    """Return a record as libvirt's metadata holds it."""
    attributes = {key: value for key, value in msgspec.to_builtins(record).items() if value}
    return etree.Element(f"{{{NAMESPACE}}}guest", attributes, nsmap={"pcloud": NAMESPACE})


def record_text(record: Record, *, address: str) -> str:
    """Return a record with another address, as text for libvirt's metadata call."""
    return etree.tostring(record_element(msgspec.structs.replace(record, address=address)), encoding="unicode")


def snapshot_document(*, memory: str, disk: str) -> str:
    """Return the document of a snapshot: memory in a file, and the domain's disk goes on as another over the present."""
    root = etree.Element("domainsnapshot")
    etree.SubElement(root, "memory", snapshot="external", file=memory)
    disks = etree.SubElement(root, "disks")
    saved = etree.SubElement(disks, "disk", name="vda", snapshot="external")
    etree.SubElement(saved, "driver", type="qcow2")
    etree.SubElement(saved, "source", file=disk)
    etree.SubElement(disks, "disk", name=_SEED, snapshot="no")
    return etree.tostring(root, encoding="unicode")


def restored_document(saved: str, *, disk: str, record: Record) -> str:
    """Return the document of a saved domain, with another disk and record."""
    root = etree.fromstring(saved.encode(), volume_xml.PARSER)
    for device in root.findall("devices/disk"):
        target = device.find("target")
        if target is not None and target.get("dev") == "vda":
            for old in (*device.findall("source"), *device.findall("backingStore")):
                device.remove(old)
            device.insert(1, etree.Element("source", file=disk))
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.SubElement(root, "metadata")
    for old in metadata.findall(f"{{{NAMESPACE}}}guest"):
        metadata.remove(old)
    metadata.append(record_element(record))
    return etree.tostring(root, encoding="unicode")


def interface_with_filter(text: str, name: str) -> str:
    """Return the network card of a domain's document with a filter, for libvirt to change it; empty when it has one."""
    interface = etree.fromstring(text.encode(), volume_xml.PARSER).find("devices/interface")
    if interface is None or interface.find("filterref") is not None:
        return ""
    etree.SubElement(interface, "filterref", filter=name)
    return etree.tostring(interface, encoding="unicode")


def parse_record(text: str) -> Record | None:
    """Return the record in a metadata element; None when it is not one of ours."""
    try:
        element = etree.fromstring(text.encode(), volume_xml.PARSER)
        return msgspec.convert(dict(element.attrib), Record)
    except (etree.XMLSyntaxError, msgspec.ValidationError):
        return None


def network_document(name: str, subnet: ipaddress.IPv4Network, bridge: str, mark: str, forwarding: str = "nat") -> str:
    """Return the document of a network of ours: no spanning tree (its delay costs 4 s a start). The UUID `mark` is how we
    know it again."""
    root = etree.Element("network")
    _text(root, "name", name)
    _text(root, "uuid", mark)
    etree.SubElement(root, "forward", mode=forwarding)
    attributes = {"stp": "off", "delay": "0"} | ({"name": bridge} if bridge else {})
    etree.SubElement(root, "bridge", attributes)
    address = etree.SubElement(root, "ip", address=str(subnet[1]), prefix=str(subnet.prefixlen))
    # Of one address, which nobody asks for: without a range the first reservation starts dnsmasq anew, for 2 to 3 s.
    last = str(subnet[-2])
    etree.SubElement(etree.SubElement(address, "dhcp"), "range", start=last, end=last)
    return etree.tostring(root, encoding="unicode")


def lease_document(mac: str, name: str, address: str) -> str:
    """Return the `host` element of a network that keeps an address for a guest."""
    return etree.tostring(
        etree.Element("host", {"mac": mac, "ip": address} | ({"name": name} if name else {})), encoding="unicode"
    )


class NetworkView(msgspec.Struct, frozen=True, kw_only=True):
    """A network as libvirt describes it."""

    forward: str = ""
    """`nat`, `route`, `open` …; empty where nothing goes outwards."""
    gateway: str
    prefix: int
    leases: Mapping[str, str]
    """MAC address → reserved address."""

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """The network's addresses."""
        return ipaddress.IPv4Network(f"{self.gateway}/{self.prefix}", strict=False)


def parse_network(text: str) -> NetworkView | None:
    """Return what a network's document says of its addresses; None when libvirt gives none there (a plain bridge)."""
    root = etree.fromstring(text.encode(), volume_xml.PARSER)
    for element in root.findall("ip"):
        if element.get("family", "ipv4") != "ipv4":
            continue
        gateway = element.get("address", "")
        prefix = element.get("prefix") or ipaddress.IPv4Network(f"0.0.0.0/{element.get('netmask', '32')}").prefixlen
        hosts = element.findall("dhcp/host")
        leases = {host.get("mac", ""): host.get("ip", "") for host in hosts if host.get("mac")}
        forward = root.find("forward")
        mode = forward.get("mode", "nat") if forward is not None else ""
        return NetworkView(forward=mode, gateway=gateway, prefix=int(prefix), leases=leases)
    return None


def pool_document(name: str, path: str, mark: str) -> str:
    """Return the document of a storage pool in a folder. The UUID `mark` is how we know it again."""
    root = etree.Element("pool", type="dir")
    _text(root, "name", name)
    _text(root, "uuid", mark)
    _text(etree.SubElement(root, "target"), "path", path)
    return etree.tostring(root, encoding="unicode")


def pool_path(text: str) -> str:
    """Return a storage pool's folder."""
    return etree.fromstring(text.encode(), volume_xml.PARSER).findtext("target/path") or ""


def volume_document(name: str, capacity: int, kind: str, *, backing: str = "") -> str:
    """Return the document of a volume; `capacity` in bytes."""
    root = etree.Element("volume")
    _text(root, "name", name)
    _text(root, "capacity", str(capacity), unit="bytes")
    if kind == "raw":
        _text(root, "allocation", "0")
    target = etree.SubElement(root, "target")
    etree.SubElement(target, "format", type=kind)
    if backing:
        store = etree.SubElement(root, "backingStore")
        _text(store, "path", backing)
        etree.SubElement(store, "format", type="qcow2")
    return etree.tostring(root, encoding="unicode")


def backing_path(text: str) -> str:
    """Return the path of the file under a volume; empty when it has none."""
    return etree.fromstring(text.encode(), volume_xml.PARSER).findtext("backingStore/path") or ""


def parse_memory(text: str) -> int:
    """Return the KiB of memory of a domain's document as libvirt writes it: in KiB, whatever it was given."""
    return int(etree.fromstring(text.encode(), volume_xml.PARSER).findtext("memory") or 0)


def parse_ports(ports: str, host: str = "127.0.0.1") -> dict[int, tuple[str, int]]:
    """Return a record's forwarded ports as `GuestInfo.port_map` has them."""
    pairs = [word.split(":") for word in ports.split()]
    return {int(guest): (host, int(mine)) for guest, mine in pairs}


def format_ports(pairs: Iterable[tuple[int, int]]) -> str:
    """Return forwarded ports as a record holds them."""
    return " ".join(f"{guest}:{host}" for guest, host in pairs)


def _user_network(root: etree._Element, plan: DomainPlan) -> None:
    forwards = "".join(
        f",hostfwd=tcp:{host}:{port}-:{guest}" for guest, (host, port) in parse_ports(plan.record.ports).items()
    )
    command_line = etree.SubElement(root, f"{{{_QEMU}}}commandline")
    mac = mac_address(plan.name)
    for value in (
        "-netdev",
        f"user,id=pcloud{forwards}",
        "-device",
        f"virtio-net-pci,netdev=pcloud,mac={mac},addr=0x1e",
    ):
        etree.SubElement(command_line, f"{{{_QEMU}}}arg", value=value)


def _disk(devices: etree._Element, path: str, target: str, kind: str) -> None:
    disk = etree.SubElement(devices, "disk", type="file", device="disk")
    etree.SubElement(disk, "driver", name="qemu", type=kind)
    etree.SubElement(disk, "source", file=path)
    etree.SubElement(disk, "target", dev=target, bus="virtio")
    if kind == "raw":
        etree.SubElement(disk, "readonly")
        _text(disk, "serial", SEED_SERIAL)


def _text(parent: etree._Element, name: str, value: str, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, name, attributes)
    element.text = value
    return element
