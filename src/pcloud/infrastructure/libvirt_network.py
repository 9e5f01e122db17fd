"""The guests' libvirt network and the addresses reserved in it.

Owns the network that we define where there is none of its name, and the `host` entries of our guests in any network that
libvirt gives addresses in. libvirt keeps both; a reservation made twice at once is refused by it, and we choose again.
Concurrency: blocking functions for the connection's threads; the network is made and removed under a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import threading
import uuid
from collections.abc import Callable
from typing import Any

import libvirt

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure.libvirt_settings import LibvirtSettings

_TRIES = 20


class Networks:
    """The network of one driver."""

    def __init__(self, settings: LibvirtSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{xml.NAMESPACE}/network/{settings.network}"))

    def ensure(self, connection: Any) -> Any:
        """Return the network, defined and started where it is not."""
        with self._lock:
            return self._ensure(connection)

    def _ensure(self, connection: Any) -> Any:
        try:
            network = connection.networkLookupByName(self._settings.network)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
                raise
            return self._define(connection)
        if not network.isActive():
            try:
                network.create()
            except libvirt.libvirtError:
                if not network.isActive():  # another process was first
                    raise
        return network

    def view(self, connection: Any) -> xml.NetworkView | None:
        """Return what is known of the network, None when libvirt gives no addresses in it, or it does not exist."""
        try:
            network = connection.networkLookupByName(self._settings.network)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
                return None
            raise
        return xml.parse_network(network.XMLDesc(0))

    def reserve(self, connection: Any, name: str) -> str:
        """Return the address kept for a guest, reserving one where it has none; empty when others give addresses there."""
        network, mac = self.ensure(connection), xml.mac_address(name)
        for _ in range(_TRIES):
            view = xml.parse_network(network.XMLDesc(0))
            if view is None:
                return ""
            if mac in view.leases:
                return view.leases[mac]
            address = free_address(view, name)
            try:
                _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, xml.lease_document(mac, name, address))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # taken meanwhile
                    raise
        raise InfrastructureError(f"no address could be reserved in network {self._settings.network}")

    def release(self, connection: Any, name: str) -> None:
        """Give a guest's address back."""
        mac = xml.mac_address(name)
        view = self.view(connection)
        if view is None or mac not in view.leases:
            return
        try:
            network = connection.networkLookupByName(self._settings.network)
            _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, xml.lease_document(mac, "", view.leases[mac]))
        except libvirt.libvirtError:
            view = self.view(connection)
            if view is not None and mac in view.leases:  # else another process gave it back
                raise

    def remove_unused(self, connection: Any, unused: Callable[[], bool]) -> None:
        """Remove a network that we made when no address in it is kept any more and `unused` says so, which is asked when
        nobody can begin to use it any more."""
        with self._lock:
            network = _network_of(connection, self._uuid)
            if network is None or not unused():
                return
            view = xml.parse_network(network.XMLDesc(0))
            if view is None or view.leases:
                return
            try:
                if network.isActive():
                    network.destroy()
                network.undefine()
            except libvirt.libvirtError:
                if _network_of(connection, self._uuid) is not None:  # else another process removed it too
                    raise

    def _define(self, connection: Any) -> Any:
        if self._settings.subnet:
            candidates = [ipaddress.IPv4Network(self._settings.subnet)]
        else:
            candidates = [ipaddress.IPv4Network(f"10.{second}.0.0/16") for second in range(120, 180)]
        refused = ""
        for subnet in candidates:
            document = xml.network_document(
                self._settings.network, subnet, self._settings.bridge, self._uuid, self._settings.forwarding
            )
            network = connection.networkDefineXML(document)
            try:
                network.create()
            except libvirt.libvirtError as error:
                if network.isActive():
                    return network
                refused = str(error)
                with contextlib.suppress(libvirt.libvirtError):
                    network.undefine()
                if "in use" not in refused:
                    break
            else:
                return network
        raise InfrastructureError(f"network {self._settings.network} can not be made: {refused}")


def _network_of(connection: Any, uuid_: str) -> Any:
    try:
        return connection.networkLookupByUUIDString(uuid_)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None
        raise


def free_address(view: xml.NetworkView, name: str) -> str:
    """Return a free address, never the subnet's last (our networks lease it); the guest's name decides where the search
    begins, so that a guest tends to keep its own.

    InfrastructureError when all are taken.
    """
    subnet, taken = view.subnet, set(view.leases.values()) | {view.gateway}
    usable = subnet.num_addresses - 3
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % usable
    for step in range(min(usable, 70_000)):
        address = str(subnet[1 + (first + step) % usable])
        if address not in taken:
            return address
    raise InfrastructureError(f"all {usable} addresses of {subnet} are taken", permanent=True)


def _update(network: Any, command: int, document: str) -> None:
    flags = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
    if network.isPersistent():
        flags |= libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    network.update(command, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, document, flags)
