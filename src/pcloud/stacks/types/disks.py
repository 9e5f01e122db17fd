"""Disks of a server beside its own: volumes that are there already, and volumes that are made with it.

A server's volumes are part of its definition before its guest is first started. The id of a volume that a server makes
follows from the server's id and the device, so that a crash and a second call make one. `record.data["disks"]` says what a
server brought, and which of it goes when the server goes.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

import msgspec

from pcloud.environment.infrastructure import Capability
from pcloud.model.deployable import Assembly, AttachedVolume
from pcloud.model.errors import PcloudError
from pcloud.model.names import DISK
from pcloud.stacks.guests import assemblies
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import short_hash
from pcloud.stacks.schema import PropertyProblem, Schema, anything, boolean, integer, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, known

SETTLE_SECONDS = 600.0
ONE_KIND = "there is one kind of volume"
NO_SOURCE = "volumes begin empty or as a snapshot; there are no images of them"
_LETTERS = "bcdefghijklmnopqrstuvwxyz"
_OWN_DISK = re.compile(r"/dev/(?:s|v|xv|h)da1?")
_NO_BOOT = "a guest starts from its image, on a disk of its own; starting from a volume is not offered"

EC2_VOLUME: Schema = {"Device": text(required=True), "VolumeId": text(required=True)}
EC2_MAPPING: Schema = {
    "DeviceName": text(required=True),
    "Ebs": mapping(
        fields={
            "DeleteOnTermination": boolean(default=True),
            "Encrypted": boolean(inert="what lies on this host is not encrypted by us"),
            "Iops": integer(inert=ONE_KIND),
            "KmsKeyId": text(refused="there are no keys to encrypt with"),
            "SnapshotId": text(),
            "Throughput": integer(inert=ONE_KIND),
            "VolumeSize": integer(minimum=1, maximum=65536),
            "VolumeType": text(inert=ONE_KIND),
        }
    ),
    "NoDevice": anything(),
    "VirtualName": text(refused="there are no disks of the host for a guest's life; map an Ebs volume"),
}
NOVA_MAPPING: Schema = {
    "device_name": text(required=True),
    "volume_id": text(),
    "snapshot_id": text(),
    "volume_size": integer(minimum=1, maximum=65536),
    "delete_on_termination": boolean(default=False),
}
NOVA_MAPPING_V2: Schema = {
    **NOVA_MAPPING,
    "device_name": text(),
    "boot_index": integer(),
    "device_type": text(allowed=("disk",), inert="a volume is a disk"),
    "disk_bus": text(inert="the device's name is what was asked for"),
    "ephemeral_format": text(refused="disks are formatted in the guest"),
    "ephemeral_size": integer(refused="a disk for a guest's life is a volume with delete_on_termination"),
    "image": text(refused=_NO_BOOT),
    "image_id": text(refused=_NO_BOOT),
    "swap_size": integer(refused="guests have no swap of their own"),
    "tag": text(inert="guests are not told the tags of their disks"),
    "volume_type": text(inert=ONE_KIND),
}


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One disk that a server asks for."""

    device: str = ""
    """Such as `/dev/vdb`; empty for any."""
    volume: str = ""
    """The volume that it is; empty for one that is made."""
    size: int = 0
    """GiB of one that is made; 0 for its snapshot's."""
    snapshot: str = ""
    """What one that is made begins as; empty for an empty one."""
    goes: bool = False
    """Whether the volume is removed with the server."""


def device_of(name: Any) -> str:
    """Return a device's name in full: `vdb` is `/dev/vdb`."""
    text = str(name or "")
    return text if not text or text.startswith("/") else f"/dev/{text}"


def ec2_disks(properties: Mapping[str, Any]) -> list[Disk]:
    """Return what `Volumes` and `BlockDeviceMappings` ask for; the guest's own disk is none of it."""
    given = [
        Disk(device=device_of(one["Device"]), volume=str(one["VolumeId"])) for one in properties.get("Volumes") or []
    ]
    made = [
        Disk(
            device=device_of(one["DeviceName"]),
            size=int(one["Ebs"].get("VolumeSize") or 0),
            snapshot=str(one["Ebs"].get("SnapshotId") or ""),
            goes=one["Ebs"]["DeleteOnTermination"],
        )
        for one in properties.get("BlockDeviceMappings") or []
        if one.get("NoDevice") is None and not _is_own(one.get("DeviceName"))
    ]
    return [*given, *made]


def nova_disks(properties: Mapping[str, Any]) -> list[Disk]:
    """Return what `block_device_mapping` and `block_device_mapping_v2` ask for."""
    return [
        Disk(
            device=device_of(one.get("device_name")),
            volume=str(one.get("volume_id") or ""),
            size=int(one.get("volume_size") or 0),
            snapshot=str(one.get("snapshot_id") or ""),
            goes=bool(one.get("delete_on_termination")),
        )
        for key in ("block_device_mapping", "block_device_mapping_v2")
        for one in properties.get(key) or []
    ]


def ec2_problems(properties: Mapping[str, Any]) -> list[PropertyProblem]:
    """Return what is wrong with `Volumes` and `BlockDeviceMappings`; values may be Unknown."""
    found = []
    for path, one in _items(properties, "BlockDeviceMappings"):
        ebs = one.get("Ebs")
        if one.get("NoDevice") is not None and ebs is None:
            continue
        if _is_own(one.get("DeviceName")):
            if isinstance(ebs, Mapping) and ebs.get("DeleteOnTermination") is False:
                found.append(_refused((*path, "Ebs", "DeleteOnTermination"), "a guest's own disk goes with the guest"))
            elif isinstance(ebs, Mapping) and ebs.get("SnapshotId") is not None:
                found.append(_refused((*path, "Ebs", "SnapshotId"), _NO_BOOT))
        elif ebs is None or (isinstance(ebs, Mapping) and not _has(ebs, "VolumeSize", "SnapshotId")):
            found.append(_bad((*path, "Ebs"), "an Ebs volume with a VolumeSize or a SnapshotId is needed"))
    for key, device in (("Volumes", "Device"), ("BlockDeviceMappings", "DeviceName")):
        found += _devices(properties, key, device)
    return found


def nova_problems(properties: Mapping[str, Any]) -> list[PropertyProblem]:
    """Return what is wrong with block devices; values may be Unknown."""
    found = []
    for key in ("block_device_mapping", "block_device_mapping_v2"):
        for path, one in _items(properties, key):
            boots = one.get("boot_index")
            if known(boots) and str(boots) == "0":
                found.append(_refused((*path, "boot_index"), _NO_BOOT))
            elif _is_own(one.get("device_name")):
                found.append(_refused((*path, "device_name"), _NO_BOOT))
            elif not _has(one, "volume_id", "volume_size", "snapshot_id"):
                found.append(_bad(path, "volume_id is needed, or volume_size or snapshot_id for a new volume"))
        found += _devices(properties, key, "device_name")
    return found


def ec2_notes(properties: Mapping[str, Any]) -> list[str]:
    """Return what of `BlockDeviceMappings` has no effect."""
    if any(_is_own(one.get("DeviceName")) for _, one in _items(properties, "BlockDeviceMappings")):
        return ["BlockDeviceMappings: the guest's own disk has the size that its infrastructure gives it"]
    return []


def lacking(properties: Mapping[str, Any], platform: Platform, *keys: str) -> list[PropertyProblem]:
    """Return a problem for each property that needs volumes where there are none."""
    if Capability.VOLUMES in platform.capabilities:
        if Capability.SNAPSHOTS in platform.capabilities:
            return []
        return [
            _refused((*path, "snapshot"), "there are no snapshots of volumes on this platform")
            for key in keys
            for path, one in _items(properties, key)
            if _has(one, "snapshot_id") or (isinstance(one.get("Ebs"), Mapping) and _has(one["Ebs"], "SnapshotId"))
        ]
    return [_refused((key,), "this platform has no volumes") for key in keys if properties.get(key)]


async def make(context: Context, wanted: Iterable[Disk]) -> tuple[AttachedVolume, ...]:
    """Make the volumes that are new, and return all as the server's guest shall have them. ResourceFailed when one is not
    there, or another guest's."""
    record, platform = context.record, context.services.platform
    place = assemblies.place(context)
    result: list[AttachedVolume] = []
    wanted = list(wanted)
    taken = [disk.device for disk in wanted if disk.device]
    for disk in wanted:
        if not disk.device:
            taken.append(free_device(taken))
        device = disk.device or taken[-1]
        volume = disk.volume or f"vol-{short_hash(record.id, device, length=16)}"
        result.append(AttachedVolume(volume=volume, device=device))

    def noted(*, given: bool) -> list[dict[str, Any]]:
        pairs = zip(result, wanted, strict=True)
        return [{"volume": one.volume, "goes": disk.goes and (given or not disk.volume)} for one, disk in pairs]

    record.data["disks"] = noted(given=False)
    context.services.save(record)  # before any is made: what a crash leaves is found by the deletion
    for one, disk in zip(result, wanted, strict=True):
        if not disk.volume:
            await asked(platform.create_volume(one.volume, disk.size, disk.snapshot))
        await check_free(context, one.volume, place)
    record.data["disks"] = noted(given=True)  # only what it may have goes with it
    context.services.save(record)
    return tuple(result)


async def change(context: Context, wanted: Iterable[Disk]) -> None:
    """Give a server these disks instead of those that it brought before, without a restart. What others attached stays."""
    place = assemblies.place(context)
    before = {str(each["volume"]) for each in context.record.data.get("disks", ())}
    disks = await make(context, wanted)
    mine = before | {one.volume for one in disks}

    def edit(one: Assembly) -> dict[str, Any]:
        others = [each for each in one.volumes if each.volume not in mine]
        for each in disks:
            check_device(each.device, others, one.name)
        return {"volumes": (*others, *disks)}

    await assemblies.change_at(context, place, edit)
    await asked(context.services.platform.settle(*place))
    for each in disks:
        await settled(context, place, each.volume)


async def drop(context: Context) -> None:
    """Remove the volumes that go with a server, now that its guest is gone, and tell of those that stay."""
    for each in context.record.data.get("disks", ()):
        if each["goes"]:
            await asked(context.services.platform.delete_volume(str(each["volume"])))
        elif context.services.find(str(each["volume"])) is None:
            context.services.note(context.record, f"the volume {each['volume']} stays, as it was asked for")


async def check_free(context: Context, volume: str, place: tuple[str, str]) -> None:
    """ResourceFailed when there is no such volume, or another guest than that of `place` has it."""
    there, holder = await context.services.platform.volume_holder(volume)
    if not there:
        raise ResourceFailed(f"there is no volume {volume}")
    if holder and holder != ".".join(place):
        raise ResourceFailed(f"the volume {volume} is attached to {holder}")


def check_device(device: str, others: Iterable[AttachedVolume], name: str) -> None:
    """ResourceFailed when a guest has another volume as that device."""
    if device in [each.device for each in others]:
        raise ResourceFailed(f"{device} of {name} is another volume")


async def settled(context: Context, place: tuple[str, str], volume: str) -> None:
    """Wait until the guest has the volume: one that was just being started with its former definition is settled again."""
    services = context.services

    async def attached() -> bool:
        await asked(services.platform.settle(*place))
        return (await services.platform.volume_holder(volume))[1] == ".".join(place)

    await context.until(attached, deadline=services.now() + SETTLE_SECONDS)


async def asked(call: Awaitable[None]) -> None:
    """Await what the platform is asked for; ResourceFailed with its sentence when it can not."""
    try:
        await call
    except PcloudError as problem:
        raise ResourceFailed(problem.problems[0].message) from problem


def free_device(taken: Iterable[str]) -> str:
    """Return the first name of a disk that is not taken; ResourceFailed when all are."""
    names = set(taken)
    for letter in _LETTERS:
        if f"/dev/vd{letter}" not in names:
            return f"/dev/vd{letter}"
    raise ResourceFailed("the guest has all the volumes that it can have")


def _is_own(device: Any) -> bool:
    return known(device) and _OWN_DISK.fullmatch(device_of(device)) is not None


def _items(properties: Mapping[str, Any], key: str) -> list[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    found = properties.get(key)
    return [
        ((key, index), one)
        for index, one in enumerate(found if isinstance(found, list) else ())
        if isinstance(one, Mapping)
    ]


def _devices(properties: Mapping[str, Any], key: str, name: str) -> list[PropertyProblem]:
    found, seen = [], set()
    for path, one in _items(properties, key):
        device = one.get(name)
        if not known(device) or _is_own(device):
            continue
        full = device_of(device)
        if not re.fullmatch(DISK, full):
            found.append(_bad((*path, name), f"'{device}' is no name of a disk: /dev/vdb, /dev/sdh, /dev/xvdf …"))
        elif full in seen:
            found.append(_bad((*path, name), f"{full} is there twice"))
        seen.add(full)
    return found


def _has(one: Mapping[str, Any], *keys: str) -> bool:
    return any(one.get(key) is not None for key in keys)


def _bad(path: tuple[str | int, ...], message: str) -> PropertyProblem:
    return PropertyProblem(code="BAD_PROPERTY", message=message, path=path)


def _refused(path: tuple[str | int, ...], message: str) -> PropertyProblem:
    return PropertyProblem(code="REFUSED", message=f"'{path[-1]}' can not be honoured: {message}", path=path)
