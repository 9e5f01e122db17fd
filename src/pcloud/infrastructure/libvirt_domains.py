"""What libvirt knows of our domains, read: their state, our record in their metadata, their address, what events mean.

Owns nothing. Concurrency: blocking functions for the connection's threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import libvirt

from pcloud.environment.infrastructure import GuestEvent, GuestInfo, GuestState
from pcloud.infrastructure import libvirt_xml as xml

STOP_REASONS = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "killed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: "migrated",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: "saved",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "crashed",
}
_EXISTS = {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_PAUSED,
           libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_PMSUSPENDED}  # fmt: skip
HUNG_STATES = {libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_PMSUSPENDED}


def find(connection: Any, name: str) -> Any:
    """Return a domain, None when there is none of that name."""
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def active(connection: Any, name: str) -> bool:
    """Tell whether a domain has a process."""
    domain = find(connection, name)
    return domain is not None and bool(domain.isActive())


def state_of(connection: Any, name: str) -> int | None:
    """Return libvirt's state of a domain, None when there is none."""
    domain = find(connection, name)
    return int(domain.state()[0]) if domain is not None else None


def record_of(domain: Any) -> xml.Record | None:
    """Return what a domain carries of ours."""
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml.NAMESPACE, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise
    return xml.parse_record(text)


def defined_memory(domain: Any) -> int:
    """Return the KiB of memory that a domain is defined with, for its next start."""
    return xml.parse_memory(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def remember_address(connection: Any, *, name: str, address: str) -> None:
    """Write an address that was found into the domain's record."""
    domain = connection.lookupByName(name)
    record = record_of(domain)
    if record is not None:
        changed = xml.record_text(record, address=address)
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, changed, "pcloud", xml.NAMESPACE, flags)


def discover(connection: Any, name: str) -> str:
    """Return the address that the lease, the guest agent or the host's ARP table tell; empty when none does."""
    domain = connection.lookupByName(name)
    sources = (
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    )
    for source in sources:
        with contextlib.suppress(libvirt.libvirtError):  # this source knows nothing
            for interface in domain.interfaceAddresses(source, 0).values():
                for address in interface["addrs"] or ():
                    if address["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4 and not address["addr"].startswith("127."):
                        return str(address["addr"])
    return ""


def look(connection: Any, name: str, guest_id: str) -> GuestInfo:
    """Return what is known of one guest; ABSENT when there is no such domain."""
    domain = find(connection, name)
    found = _describe(domain, guest_id, connection.getHostname()) if domain is not None else None
    return found or GuestInfo(guest_id=guest_id, state=GuestState.ABSENT)


def look_at_all(connection: Any, prefix: str) -> list[GuestInfo]:
    """Return what is known of all guests of ours."""
    place = connection.getHostname()
    named = [(domain, domain.name()) for domain in connection.listAllDomains(0)]
    found = [_describe(domain, name[len(prefix) :], place) for domain, name in named if name.startswith(prefix)]
    return [info for info in found if info is not None]


def hosts_beside(connection: Any, prefix: str, deployable: str, guest_id: str) -> dict[str, str]:
    """Return host name → address of the deployable's other guests that have an address by now."""
    hosts = {}
    for domain in connection.listAllDomains(0):
        if domain.name().startswith(f"{prefix}{deployable}."):
            with contextlib.suppress(libvirt.libvirtError):  # it went while it was looked at
                record = record_of(domain)
                if record is not None and record.guest_id != guest_id and record.address:
                    hosts[record.hostname] = record.address
    return hosts


def event_of(guest_id: str, event: int, detail: int) -> GuestEvent | None:
    """Return what a life-cycle event of libvirt says of a guest; None when it says nothing that matters."""
    match event:
        case libvirt.VIR_DOMAIN_EVENT_STARTED:
            return GuestEvent(guest_id=guest_id, state=GuestState.RUNNING, reason="started")
        case libvirt.VIR_DOMAIN_EVENT_STOPPED:
            reason = STOP_REASONS.get(detail, "stopped")
            return GuestEvent(guest_id=guest_id, state=GuestState.STOPPED, reason=reason)
        case libvirt.VIR_DOMAIN_EVENT_CRASHED:
            return GuestEvent(guest_id=guest_id, state=GuestState.STOPPED, reason="crashed")
        case libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            return GuestEvent(guest_id=guest_id, state=GuestState.ABSENT, reason="deleted")
        case _:
            return None


def differences(
    before: dict[str, GuestState], now: dict[str, GuestState], seen: Sequence[GuestInfo]
) -> list[GuestEvent]:
    """Return what a look at all guests shows that was not told: `before` is what was known when the look began, `now` what
    events have told meanwhile."""
    states = {info.guest_id: info.state for info in seen}
    told = []
    for guest_id in before.keys() | states.keys():
        state = states.get(guest_id, GuestState.ABSENT)
        if state != before.get(guest_id, GuestState.ABSENT) and now.get(guest_id) != state:
            told.append(GuestEvent(guest_id=guest_id, state=state, reason="seen"))
    return told


def _describe(domain: Any, guest_id: str, place: str) -> GuestInfo | None:
    """Return a domain's facts, None when it went while it was looked at."""
    try:
        state = domain.state()[0]
        record = record_of(domain)
        number = domain.ID()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    running = state in _EXISTS
    record = record or xml.Record(guest_id=guest_id, deployable="", hostname="", digest="")
    return GuestInfo(
        guest_id=guest_id,
        state=GuestState.RUNNING if running else GuestState.STOPPED,
        address=record.address,
        port_map=xml.parse_ports(record.ports),
        place=place,
        digest=record.digest,
        boot_id=f"{record.boot}.{number}" if running else "",
    )
