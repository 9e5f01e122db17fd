"""Volumes of both languages: disks that outlive the guests that they are attached to.

A volume is made with its resource and goes with it; attaching and detaching need no restart, and a guest that is restarted
has its volumes before its services start. One guest has a volume at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.environment.infrastructure import Capability
from pcloud.model.deployable import Assembly, AttachedVolume
from pcloud.model.names import DISK
from pcloud.stacks.guests import assemblies
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord, short_hash
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, mapping, text
from pcloud.stacks.types.addresses import wanted
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType
from pcloud.stacks.types.disks import (
    NO_SOURCE,
    ONE_KIND,
    SETTLE_SECONDS,
    asked,
    check_device,
    check_free,
    free_device,
    settled,
)

_GIB = 1 << 30
_NEEDS = frozenset({"guests", Capability.VOLUMES})


def volume_id(record: ResourceRecord) -> str:
    """Return the id of the volume that a record's resource makes."""
    return f"vol-{short_hash(record.id, length=16)}"


class Volume(ResourceType):
    """Base: a disk of a size in GiB, empty or as a snapshot is."""

    needs = _NEEDS
    snapshots = True
    size_property: ClassVar[str]
    snapshot_properties: ClassVar[tuple[str, ...]]

    def attributes_of(self, context: Context) -> dict[str, Any]:
        """Return what templates may ask of it."""
        raise NotImplementedError

    async def create(self, context: Context) -> None:
        """Make it."""
        record = context.record
        record.physical = record.physical or volume_id(record)
        context.services.save(record)
        platform, given = context.services.platform, context.properties
        snapshot = next((str(given[key]) for key in self.snapshot_properties if given.get(key)), "")
        await asked(platform.create_volume(record.physical, int(given.get(self.size_property) or 0), snapshot))
        sizes = {each.volume: each.size for each in await platform.volumes()} if snapshot else {}
        record.data["size"] = given.get(self.size_property) or -(-sizes.get(record.physical, 0) // _GIB)
        record.attributes = self.attributes_of(context)

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """A size is needed, or a snapshot that has one."""
        if any(properties.get(key) is not None for key in (self.size_property, *self.snapshot_properties)):
            return []
        message = f"the property '{self.size_property}' is needed"
        return [PropertyProblem(code="MISSING_PROPERTY", message=message, path=(self.size_property,))]

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """Snapshots are not everywhere."""
        if Capability.SNAPSHOTS in platform.capabilities:
            return []
        message = "there are no snapshots of volumes on this platform"
        asked_for = [key for key in self.snapshot_properties if properties.get(key) is not None]
        return [PropertyProblem(code="REFUSED", message=message, path=(key,)) for key in asked_for]

    async def snapshot(self, context: Context) -> str:
        """Copy it; what attached it is gone by now."""
        record = context.record
        operation = context.stack.operation
        assert operation is not None
        made = f"snap-{short_hash(record.id, operation.generation, length=16)}"
        if record.physical:
            note = f"{context.stack.name}/{record.name}"
            await asked(context.services.platform.snapshot_volume(record.physical, made, note))
        return made

    async def update(self, context: Context, old: Any, changed: frozenset[str]) -> None:
        """It grows; the file system in it is the guest's matter."""
        await self.create(context)

    async def delete(self, context: Context) -> None:
        """Remove it with what is in it."""
        if context.record.physical:
            await asked(context.services.platform.delete_volume(context.record.physical))

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """None when there is no volume any more."""
        there, _ = await context.services.platform.volume_holder(context.record.physical)
        return {} if there else None


class Ec2Volume(Volume):
    """AWS::EC2::Volume."""

    names = ("AWS::EC2::Volume",)
    size_property = "Size"
    snapshot_properties = ("SnapshotId",)
    attributes = frozenset({"VolumeId"})
    schema: ClassVar[Schema] = {
        "Size": integer(minimum=1, maximum=65536, on_change=OnChange.UPDATE),
        "AvailabilityZone": text(inert="there is one zone"),
        "AutoEnableIO": boolean(inert=ONE_KIND),
        "Encrypted": boolean(inert="what lies on this host is not encrypted by us"),
        "Iops": integer(inert=ONE_KIND),
        "KmsKeyId": text(refused="there are no keys to encrypt with"),
        "MultiAttachEnabled": boolean(refused="one guest has a volume at a time"),
        "SnapshotId": text(),
        "Tags": listing(on_change=OnChange.NOTHING),
        "Throughput": integer(inert=ONE_KIND),
        "VolumeType": text(inert=ONE_KIND),
    }

    def attributes_of(self, context: Context) -> dict[str, Any]:
        """Its id."""
        return {"VolumeId": context.record.physical}


class CinderVolume(Volume):
    """OS::Cinder::Volume."""

    names = ("OS::Cinder::Volume",)
    size_property = "size"
    snapshot_properties = ("snapshot_id", "backup_id")
    attributes = frozenset(
        {"attachments", "bootable", "display_name", "metadata", "name", "show", "size", "status", "volume_type"}
    )
    schema: ClassVar[Schema] = {
        "size": integer(minimum=1, maximum=65536, on_change=OnChange.UPDATE),
        "name": text(on_change=OnChange.UPDATE),
        "description": text(on_change=OnChange.NOTHING),
        "metadata": mapping(on_change=OnChange.UPDATE),
        "availability_zone": text(inert="there is one zone"),
        "volume_type": text(inert=ONE_KIND),
        "scheduler_hints": anything(inert="there is one place"),
        "read_only": boolean(refused="volumes can be written"),
        "multiattach": boolean(refused="one guest has a volume at a time"),
        "backup_id": text(),
        "image": text(refused=NO_SOURCE),
        "imageRef": text(refused=NO_SOURCE),
        "snapshot_id": text(),
        "source_volid": text(refused="a volume is not copied while it may be written; make it from a snapshot"),
    }

    def attributes_of(self, context: Context) -> dict[str, Any]:
        """As Cinder shows a volume."""
        given, record = context.properties, context.record
        shown: dict[str, Any] = {
            "name": given.get("name") or record.physical,
            "size": str(record.data["size"]),
            "metadata": given.get("metadata") or {},
            "bootable": "false",
            "status": "available",
            "volume_type": "",
            "attachments": [],
        }
        return {**shown, "display_name": shown["name"], "show": {"id": record.physical, **shown}}


class Attachment(ResourceType):
    """Base: a volume on a guest, as a device."""

    needs = _NEEDS

    def asked(self, context: Context) -> tuple[str, str, str]:
        """Return the guest's id, the volume's, and the device (empty for any)."""
        raise NotImplementedError

    async def create(self, context: Context) -> None:
        """Attach it, at once where the guest runs; waits for a guest that is being made."""
        server, volume, device = self.asked(context)
        if device and not re.fullmatch(DISK, device):
            raise ResourceFailed(f"'{device}' is no name of a disk: /dev/vdb, /dev/sdh, /dev/xvdf …")
        services, record, target = context.services, context.record, wanted(context, server)

        async def there() -> bool:
            place = services.place_of(target)
            return place is not None and await assemblies.stored(context, place) is not None

        await context.until(there, deadline=services.now() + SETTLE_SECONDS)
        place = services.place_of(target)
        assert place is not None
        await check_free(context, volume, place)
        record.data["at"], record.data["volume"] = list(place), volume
        record.physical = f"attach-{short_hash(record.id, length=16)}"
        services.save(record)

        def edit(one: Assembly) -> dict[str, Any]:
            others = [each for each in one.volumes if each.volume != volume]
            mine = device or free_device(each.device for each in others)
            check_device(mine, others, target.name)
            return {"volumes": (*others, AttachedVolume(volume=volume, device=mine))}

        await assemblies.change_at(context, place, edit)
        await settled(context, place, volume)

    async def update(self, context: Context, old: Any, changed: frozenset[str]) -> None:
        """Taken off first: a replacement would be attached before, and then be taken off with what it replaces."""
        await self.delete(context)
        await self.create(context)

    async def delete(self, context: Context) -> None:
        """Take it off its guest, if it is still there."""
        data, platform = context.record.data, context.services.platform
        place, volume = data.get("at"), data.get("volume")
        if not place or await assemblies.stored(context, (place[0], place[1])) is None:
            return
        await assemblies.change_at(
            context,
            (place[0], place[1]),
            lambda one: {"volumes": tuple(each for each in one.volumes if each.volume != volume)},
        )
        await asked(platform.settle(place[0], place[1]))


class Ec2Attachment(Attachment):
    """AWS::EC2::VolumeAttachment."""

    names = ("AWS::EC2::VolumeAttachment",)
    schema: ClassVar[Schema] = {
        "Device": text(on_change=OnChange.UPDATE),
        "InstanceId": text(required=True, on_change=OnChange.UPDATE),
        "VolumeId": text(required=True, on_change=OnChange.UPDATE),
    }

    def asked(self, context: Context) -> tuple[str, str, str]:
        """As EC2 calls them."""
        given = context.properties
        return str(given["InstanceId"]), str(given["VolumeId"]), str(given.get("Device") or "")


class CinderAttachment(Attachment):
    """OS::Cinder::VolumeAttachment."""

    names = ("OS::Cinder::VolumeAttachment",)
    schema: ClassVar[Schema] = {
        "instance_uuid": text(required=True, on_change=OnChange.UPDATE),
        "volume_id": text(required=True, on_change=OnChange.UPDATE),
        "mountpoint": text(on_change=OnChange.UPDATE),
    }

    def asked(self, context: Context) -> tuple[str, str, str]:
        """As Heat calls them."""
        given = context.properties
        return str(given["instance_uuid"]), str(given["volume_id"]), str(given.get("mountpoint") or "")


TYPES: tuple[type[ResourceType], ...] = (Ec2Volume, Ec2Attachment, CinderVolume, CinderAttachment)
