"""How a guest's domain is made: address, disk, seed, definition, start.

Concurrency: blocking functions for the connection's threads; calls for one
guest never overlap.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Sequence
from typing import Any

import libvirt
import msgspec

from pcloud.environment.infrastructure import GuestSpec, InfrastructureError
from pcloud.infrastructure import libvirt_domains as domains
from pcloud.infrastructure import libvirt_firewall as firewall
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure import seed
from pcloud.infrastructure.iso import iso_image
from pcloud.infrastructure.libvirt_accelerator import Accelerator
from pcloud.infrastructure.libvirt_network import Networks
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.infrastructure.libvirt_storage import Storage
from pcloud.infrastructure.libvirt_volumes import LibvirtVolumes
from pcloud.model.deployable import AttachedVolume


class Making(msgspec.Struct, frozen=True, kw_only=True):
    """A guest about to be started: its domain, and the seed that its domain reads."""

    plan: xml.DomainPlan
    seed: bytes

    @property
    def fingerprint(self) -> str:
        """Digest of everything that a saved state of this guest holds: another one, and the state is of something else."""
        plan = self.plan
        # Left out: `boot`, made anew at each start and of no consequence inside, and the accelerator, which may turn out not
        # to work only when the guest is started (a state of another one is refused by QEMU).
        record = msgspec.structs.replace(plan.record, boot="")
        known = msgspec.json.encode([record, plan.memory, plan.cpus, plan.command_line, plan.network])
        return hashlib.sha256(known + self.seed).hexdigest()[:16]


class Maker:
    """Makes and starts domains."""

    def __init__(
        self,
        settings: LibvirtSettings,
        storage: Storage,
        networks: Networks,
        accelerator: Accelerator,
        volumes: LibvirtVolumes,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._networks = networks
        self._accelerator = accelerator
        self._volumes = volumes

    def prepare(self, connection: Any, spec: GuestSpec, name: str, disk: str) -> Making:
        """Reserve the guest's address and return what its domain shall be, with a disk at that path. Writes no volume."""
        user_network = self._settings.network == "user"
        address = "10.0.2.15" if user_network else self._networks.reserve(connection, name)
        hosts = domains.hosts_beside(connection, self._settings.prefix, spec.deployable, spec.guest_id)
        if address:
            hosts[spec.identity.hostname] = address
        ports = xml.format_ports(_free_ports(self._settings.forwarded_ports)) if user_network else ""
        content, boot = self._boot(connection, spec, name, address, hosts)
        filtered = spec.firewall is not None
        if filtered:
            if user_network or (view := self._networks.view(connection)) is None:
                raise InfrastructureError(
                    "a firewall needs a libvirt network with addresses of its own", permanent=True
                )
            firewall.ensure(connection, name, spec.firewall, view.gateway)
        memory, cpus = self._settings.size(spec.memory, spec.cpus)
        plan = xml.DomainPlan(
            name=name,
            record=xml.Record(
                guest_id=spec.guest_id,
                deployable=spec.deployable,
                hostname=spec.identity.hostname,
                digest=spec.digest,
                address=address,
                boot=os.urandom(4).hex(),
                ports=ports,
            ),
            accelerator=self._accelerator.choose(connection),
            memory=memory,
            cpus=cpus,
            disk=disk,
            seed=self._storage.path(connection, f"{name}.seed"),
            network="" if user_network else self._settings.network,
            console=self._storage.path(connection, f"{name}.console"),
            firewall=name if filtered else "",
            **boot,
        )
        return Making(plan=plan, seed=content)

    def boot(self, connection: Any, making: Making, volumes: Sequence[AttachedVolume] = ()) -> None:
        """Write the seed, define the domain with its volumes and start it."""
        plan = making.plan
        self._storage.put(connection, f"{plan.name}.seed", making.seed)
        with self._volumes.claimed(connection, plan.record.guest_id, volumes) as disks:
            domain = connection.defineXML(xml.domain_document(msgspec.structs.replace(plan, volumes=disks)))
        try:
            domain.create()
        except libvirt.libvirtError:
            if not domain.isActive():
                raise

    def _boot(
        self, connection: Any, spec: GuestSpec, name: str, address: str, hosts: dict[str, str]
    ) -> tuple[bytes, dict[str, Any]]:
        """Return the seed, and how the machine boots: our own images by kernel, others by their boot loader."""
        image = spec.image
        if not image.kernel:
            if spec.seed or spec.addresses:
                raise InfrastructureError(
                    f"{image.name} was made by others: only images built here take user data and addresses of stacks",
                    permanent=True,
                )
            files = seed.nocloud(spec.guest_id, spec.identity, hosts, f"{name}-{spec.digest}")
            return iso_image("cidata", files), {}
        if self._settings.network == "user":
            where = "pcloud.address=10.0.2.15/24 pcloud.gateway=10.0.2.2"
            dns = "10.0.2.3"
        else:
            view = self._networks.view(connection)
            where = f"pcloud.address={address}/{view.prefix} pcloud.gateway={view.gateway}" if address and view else ""
            dns = view.gateway if view else ""
        content = seed.tar_seed(
            spec.guest_id,
            spec.identity,
            hosts,
            dns=dns,
            dhcp=not where,
            files=spec.seed,
            addresses=spec.addresses,
            volumes=True,
        )
        return content, {
            "kernel": self._storage.image_path(connection, image.digest, "kernel"),
            "initrd": self._storage.image_path(connection, image.digest, "initrd"),
            "command_line": f"root=/dev/vda rw console=ttyS0 net.ifnames=0 {where}".strip(),
        }


def _free_ports(wanted: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of a guest's port and a free one of this host's loopback. Somebody may take it before QEMU does: the start
    then fails, and the next try chooses another."""
    with contextlib.ExitStack() as held:
        pairs = []
        for port in wanted:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            pairs.append((port, int(probe.getsockname()[1])))
    return pairs
