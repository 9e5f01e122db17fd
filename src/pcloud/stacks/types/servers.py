"""Servers of both languages: an assembly of the stack's deployable, with user data and metadata in the guest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from pcloud.environment.infrastructure import Capability
from pcloud.model.deployable import Assembly, AttachedVolume, FileAttributes
from pcloud.stacks.guests import assemblies, drift, seed
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import PropertyProblem
from pcloud.stacks.types import disks
from pcloud.stacks.types.addresses import claim, not_fixed
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, known
from pcloud.stacks.types.networks import interfaces, join, leave
from pcloud.stacks.types.security_groups import member_of, surround, walls

NOT_BOTH = "a server is in the guests' own network or in networks of stacks, not in both"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One of the networks that a server names."""

    port: str = ""
    """A port's id; its network is meant where it is in one that a stack made."""
    inside: str = ""
    """The network or subnet of a stack; empty for the guests' own."""
    fixed: str = ""
    """The address that is asked for there."""


class ServerType(ResourceType):
    """Base of what makes one guest: subclasses say which properties hold what."""

    needs = frozenset({"guests"})
    image_property: ClassVar[str]
    size_property: ClassVar[str]
    group_properties: ClassVar[frozenset[str]] = frozenset()
    disk_properties: ClassVar[tuple[str, ...]] = ()

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """The image and the size must mean something here."""
        found = disks.lacking(properties, platform, *self.disk_properties)
        image, size = properties.get(self.image_property), properties.get(self.size_property)
        if known(image) and platform.catalogue.image(str(image)) is None:
            meant = platform.catalogue.meaning(str(image))
            found.append(
                PropertyProblem(
                    code="UNKNOWN_IMAGE" if meant is None else "NO_TOOLS",
                    message=f"no image here is meant by '{image}'"
                    if meant is None
                    else f"the image '{meant}' has neither cloud-init nor heat-cfntools, which a server of a stack needs",
                    path=(self.image_property,),
                    hint=f"there are: {', '.join(platform.images())}; or map it in the settings, [stacks.images]",
                )
            )
        if known(size) and platform.catalogue.size(str(size)) is None:
            found.append(
                PropertyProblem(
                    code="UNKNOWN_SIZE",
                    message=f"'{size}' is no size that is known here",
                    path=(self.size_property,),
                    hint=f"known are: {', '.join(platform.catalogue.sizes())}; more in the settings, [stacks.sizes]",
                )
            )
        return [*found, *not_fixed(*self.fixed(properties), platform)]

    def fixed(self, properties: Mapping[str, Any]) -> tuple[Any, tuple[str | int, ...]]:
        """Return the address that is asked for, None where none is, and the path of its property."""
        return None, ()

    def claims(self, properties: Mapping[str, Any]) -> dict[str, tuple[str | int, ...]]:
        """The guest's own address."""
        return claim(*self.fixed(properties))

    def user_data(self, context: Context) -> str:
        """Return the user data as the guest gets it."""
        raise NotImplementedError

    def groups(self, context: Context) -> list[Any]:
        """Return the security groups that it names."""
        return []

    def ports(self, context: Context) -> list[ResourceRecord]:
        """Return the ports that it takes."""
        return []

    def parts(self, context: Context) -> list[Part]:
        """Return the networks that it names, those that mean the guests' own as well."""
        return []

    def disks(self, context: Context) -> list[disks.Disk]:
        """Return the disks that it asks for besides its own."""
        return []

    def keys(self, context: Context) -> list[str]:
        """Return public keys for the guest's root."""
        return []

    def instance(self, context: Context) -> str:
        """Return the physical id."""
        raise NotImplementedError

    def assembly(self, context: Context, volumes: tuple[AttachedVolume, ...] = ()) -> Assembly:
        """Return the guest as it shall be."""
        _, name = assemblies.place(context)
        given, services = context.properties, context.services
        catalogue = services.platform.catalogue
        image = catalogue.image(str(given[self.image_property]))
        if image is None:
            raise ResourceFailed(f"no image here is meant by '{given[self.image_property]}'")
        size = catalogue.size(str(given[self.size_property])) if given.get(self.size_property) else None
        packages, files, commands, modes = seed.image_parts(context.metadata)
        return Assembly(
            name=name,
            image=image,
            packages=packages,
            files=files,
            file_attributes=tuple(FileAttributes(path=path, mode=mode) for path, mode in modes.items()),
            commands=commands,
            resources=seed.resources(context.metadata),
            memory=size.memory if size else 0,
            cpus=size.cpus if size else 0.0,
            address=str(self.fixed(given)[0] or ""),
            interfaces=interfaces(context.record),
            **walls(services, context.record.data.get("groups", ())),
            volumes=volumes,
            addresses=tuple(address for port in self.ports(context) for address in addresses_of(port)),
            seed=seed.files(
                instance=context.record.physical,
                hostname=name,
                user_data=self.user_data(context),
                metadata=context.metadata,
                url=services.metadata_url,
                region=services.region,
                keys=self.keys(context),
                meta=told(given),
                managed=services.platform.transport != "none",
            ),
        )

    async def create(self, context: Context) -> None:
        """Make the guest; it is there when its agent answers. Its user data may still run then, as on EC2."""
        context.record.physical = self.instance(context)
        await self.enter(context)
        self._join(context)
        wanted = await assemblies.current(context)
        if wanted is None:
            wanted = self.assembly(context, await disks.make(context, self.disks(context)))
            for port in self.ports(context):
                port.data["server"] = context.record.physical
                context.services.save(port)
        await assemblies.put(context, wanted)
        await self.arrived(context)
        if context.record.data["groups"]:
            await surround(context, context.record)  # rules may have changed while it was made

    async def enter(self, context: Context) -> None:
        """Take its part in networks of stacks, before the guest is made."""
        found: list[dict[str, str]] = []
        for index, part in enumerate(self.parts(context)):
            port = context.services.find(part.port) if part.port else None
            if port is not None and "interface" in port.data:
                found.append({**port.data["interface"], "owner": port.physical})
            elif port is None and part.inside:
                taken = await join(context, part.inside, f"{context.token}.{index}", part.fixed)
                found.append({**taken, "owner": context.token})
        if found and any("address" in port.data for port in self.ports(context)):
            raise ResourceFailed(NOT_BOTH)
        context.record.data["interfaces"] = found
        context.services.save(context.record)

    def _join(self, context: Context) -> None:
        """Note the groups that it is in, before its rules are read: who changes a group finds its members by that."""
        context.record.data["groups"] = member_of(context.services, self.groups(context))
        context.services.save(context.record)

    async def arrived(self, context: Context, since: float = 0.0) -> None:
        """Wait for the guest and note where it is."""
        status = await assemblies.running(context, services=False, since=since)
        context.record.attributes = self.addresses(context, status.address, status.place)

    def addresses(self, context: Context, address: str, place: str) -> dict[str, Any]:
        """Return the attributes that say where the guest is."""
        raise NotImplementedError

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Another size: the guest is restarted with it, in order, its disk stays. Other groups and volumes: at once."""
        name, assembly = assemblies.place(context)
        if changed & self.group_properties:
            self._join(context)
            await surround(context, context.record)
        if changed.intersection(self.disk_properties):
            await disks.change(context, self.disks(context))
        if self.size_property not in changed:
            return
        size = context.services.platform.catalogue.size(str(context.properties.get(self.size_property)))
        if size is None:
            raise ResourceFailed(f"'{context.properties.get(self.size_property)}' is no size that is known here")
        if Capability.RESIZE not in context.services.platform.capabilities:
            where = context.services.platform.infrastructure
            raise ResourceFailed(
                f"a server on {where} keeps its size: one with another name is made with the other size"
            )
        since = context.services.now()
        await assemblies.change(context, memory=size.memory, cpus=size.cpus)
        await context.services.platform.recover(name, assembly, reason="its size was changed by an update of its stack")
        await self.arrived(context, since)

    async def delete(self, context: Context) -> None:
        """Remove the guest with all of it, the volumes that go with it, and what it has in networks of stacks."""
        await assemblies.remove(context)
        await disks.drop(context)
        await leave(context)

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """The guest's state, image, memory and cores; None when there is none any more."""
        given, catalogue = context.properties, context.services.platform.catalogue
        stored, found = await drift.guest(context)
        if stored is None:
            return None
        asked = given.get(self.size_property)
        size = catalogue.size(str(asked)) if asked else None
        memory, cpus = (size.memory, size.cpus) if size is not None else (None, None) if asked else (0, 0.0)
        return {**found, **drift.other(stored, catalogue.image(str(given[self.image_property])), memory, cpus)}


def told(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return a server's tags and metadata, by which its values are found."""
    tags, metadata = properties.get("Tags") or [], properties.get("metadata") or {}
    named = {tag["Key"]: tag["Value"] for tag in tags if isinstance(tag, Mapping)} if isinstance(tags, list) else {}
    return {str(key): str(value) for key, value in {**metadata, **named}.items()}


def short_id(prefix: str, context: Context) -> str:
    """Return an id in EC2's form."""
    return f"{prefix}-{context.token.replace('-', '')[:17]}"


def addresses_of(port: ResourceRecord) -> list[str]:
    """Return what a port brings: its address, and the floating ones that it was given. In a network of a stack neither is an
    address of the guests' own network."""
    if "interface" in port.data:
        return []
    return [str(port.data["address"]), *map(str, port.data.get("floating", ()))]


TYPES: tuple[type[ResourceType], ...] = ()
