"""Volumes that servers bring: over a platform that keeps definitions and volumes in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pcloud.environment.infrastructure import VolumeInfo
from pcloud.model.deployable import Deployable
from pcloud.model.errors import InvalidDocument, Unavailable
from pcloud.stacks.records import Source
from tests.stacks.fake_platform import Ending
from tests.stacks.lifecycle import opened
from tests.stacks.memory_platform import MemoryPlatform
from tests.stacks.templates import cfn, hot, instance


class DiskPlatform(MemoryPlatform):
    """Volumes are held by whoever's definition names them, from the moment that it is applied."""

    capabilities = frozenset({"guests", "volumes", "snapshots"})

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}
        self.copies: dict[str, tuple[int, str]] = {}

    def guests(self) -> list[tuple[str, Any]]:
        return [
            (f"{deployable.name}.{one.name}", one)
            for deployable in self.stored.values()
            for one in deployable.assemblies
        ]

    async def apply(self, deployable: Deployable) -> None:
        await super().apply(deployable)
        held = [each.volume for _, one in self.guests() for each in one.volumes]
        assert len(held) == len(set(held)), "one guest has a volume"
        assert set(held) <= self.sizes.keys()

    async def create_volume(self, volume: str, gigabytes: int, snapshot: str = "") -> None:
        if snapshot and snapshot not in self.copies:
            raise Unavailable.of("NO_VOLUME", f"there is no snapshot {snapshot}")
        self.sizes[volume] = gigabytes or self.copies[snapshot][0]

    async def snapshot_volume(self, volume: str, snapshot: str, note: str) -> None:
        assert (await self.volume_holder(volume))[1] == "", "nobody writes to it"
        self.copies.setdefault(snapshot, (self.sizes[volume], note))

    async def volumes(self) -> list[VolumeInfo]:
        return [VolumeInfo(volume=name, size=size << 30, taken=0) for name, size in self.sizes.items()]

    async def delete_volume(self, volume: str) -> None:
        _, holder = await self.volume_holder(volume)
        if holder:
            raise Unavailable.of("NO_VOLUME", f"volume {volume} is attached to {holder}")
        self.sizes.pop(volume, None)

    async def volume_holder(self, volume: str) -> tuple[bool, str]:
        holders = [name for name, one in self.guests() if volume in [each.volume for each in one.volumes]]
        return volume in self.sizes, holders[0] if holders else ""

    def disks(self, name: str) -> dict[str, int]:
        """Device → GiB of the guest of a resource."""
        (found,) = [one for full, one in self.guests() if full.split(".")[1].startswith(name)]
        return {each.device: self.sizes[each.volume] for each in found.volumes}


def ebs(device: str, **values: Any) -> dict[str, Any]:
    return {"DeviceName": device, "Ebs": values}


def nova(**properties: Any) -> dict[str, Any]:
    return {
        "type": "OS::Nova::Server",
        "properties": {"image": "bookworm-cfntools", "flavor": "m1.small", **properties},
    }


async def test_an_instance_with_volumes_of_its_own_and_of_others(tmp_path: Path) -> None:
    platform = DiskPlatform()
    manager = await opened(tmp_path, platform)

    def source(second: str) -> Source:
        volume = {"Type": "AWS::EC2::Volume", "Properties": {"Size": 7}}
        mappings = [
            ebs("/dev/sda1", VolumeSize=30),
            ebs("/dev/sdh", VolumeSize=2),
            ebs("xvdk", VolumeSize=3, DeleteOnTermination=False),
            {"DeviceName": "/dev/sdc", "NoDevice": {}},
        ]
        attached = [{"Device": "/dev/vdc", "VolumeId": {"Ref": second}}]
        return cfn(one=volume, two=volume, S=instance(Volumes=attached, BlockDeviceMappings=mappings))

    planned = manager.plan(None, source("one"))
    assert "S: BlockDeviceMappings: the guest's own disk has the size that its infrastructure gives it" in planned.notes
    stack = await manager.create("disks", source("one"))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    assert len(platform.applied) == 1, "the guest starts with its disks"
    assert platform.disks("s-") == {"/dev/vdc": 7, "/dev/sdh": 2, "/dev/xvdk": 3}
    one, two = (manager.current(stack)[name].physical for name in ("one", "two"))

    # Another volume instead, at once; what the server made stays what it is.
    made = platform.sizes.keys() - {one, two}
    await manager.update(stack, source("two"))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert [(await platform.volume_holder(each))[1] != "" for each in (one, two)] == [False, True]
    assert platform.sizes.keys() - {one, two} == made
    assert len(platform.settled) >= 1

    await manager.delete(stack)
    await manager.wait(stack)
    assert stack.status == "DELETE_COMPLETE", stack.reason
    assert list(platform.sizes.values()) == [3], "it was to stay"
    (kept,) = platform.sizes
    assert [event.reason for event in manager.events(stack) if kept in event.reason] == [
        f"the volume {kept} stays, as it was asked for"
    ]
    await manager.close()


async def test_a_server_of_nova_with_block_devices(tmp_path: Path) -> None:
    platform = DiskPlatform()
    platform.sizes = {"vol-given": 5, "vol-kept": 6}
    manager = await opened(tmp_path, platform)
    source = hot(
        s=nova(
            block_device_mapping=[{"device_name": "vdc", "volume_id": "vol-kept"}],
            block_device_mapping_v2=[
                {"volume_id": "vol-given", "delete_on_termination": True, "boot_index": -1},
                {"volume_size": 9, "delete_on_termination": True},
            ],
        )
    )
    stack = await manager.create("nova", source)
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    assert platform.disks("s-") == {"/dev/vdc": 6, "/dev/vdb": 5, "/dev/vdd": 9}
    await manager.delete(stack)
    await manager.wait(stack)
    assert (stack.status, platform.sizes) == ("DELETE_COMPLETE", {"vol-kept": 6})
    await manager.close()


async def test_another_guests_volume_is_not_touched(tmp_path: Path) -> None:
    """Not by the attempt, and not by what undoes it, though it was to go with the server."""
    platform = DiskPlatform()
    platform.sizes = {"vol-given": 5}
    manager = await opened(tmp_path, platform)

    def asks(**more: Any) -> dict[str, Any]:
        return nova(block_device_mapping_v2=[{"volume_id": "vol-given", **more}])

    first = await manager.create("first", hot(s=asks()))
    await manager.wait(first)
    second = await manager.create("second", hot(s=asks(delete_on_termination=True)))
    await manager.wait(second)
    assert second.status == "ROLLBACK_COMPLETE", second.reason
    assert "the volume vol-given is attached to first-" in second.reason
    assert platform.disks("s-") == {"/dev/vdb": 5}
    none = await manager.create("none", hot(s=nova(block_device_mapping_v2=[{"volume_id": "vol-none"}])))
    await manager.wait(none)
    assert "there is no volume vol-none" in none.reason
    await manager.close()


async def test_members_of_a_group_bring_disks_and_take_them_along(tmp_path: Path) -> None:
    platform = DiskPlatform()
    manager = await opened(tmp_path, platform)

    def source(size: int) -> Source:
        launch = {"ImageId": "F17-x86_64-cfntools", "InstanceType": "m1.small"}
        launch["BlockDeviceMappings"] = [ebs("/dev/sdh", VolumeSize=4)]  # type: ignore[assignment]
        group = {"LaunchConfigurationName": {"Ref": "launch"}, "MinSize": size, "MaxSize": 3, "AvailabilityZones": []}
        return cfn(
            launch={"Type": "AWS::AutoScaling::LaunchConfiguration", "Properties": launch},
            group={"Type": "AWS::AutoScaling::AutoScalingGroup", "Properties": group},
        )

    stack = await manager.create("group", source(2))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    assert list(platform.sizes.values()) == [4, 4]
    group = manager.current(stack)["group"]
    group.data["size"] = 1
    await manager.update(stack, source(1))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert list(platform.sizes.values()) == [4]
    await manager.delete(stack)
    await manager.wait(stack)
    assert platform.sizes == {}
    await manager.close()


class EndingDisks(Ending, DiskPlatform):
    """Ends its daemon before or after the call of that number."""

    async def apply(self, deployable: Deployable) -> None:
        await self.spend()
        await super().apply(deployable)
        await self.spend()

    async def delete(self, name: str) -> None:
        await self.spend()
        await super().delete(name)
        await self.spend()

    async def settle(self, deployable: str, assembly: str) -> None:
        await self.spend()
        await super().settle(deployable, assembly)
        await self.spend()

    async def create_volume(self, volume: str, gigabytes: int, snapshot: str = "") -> None:
        await self.spend()
        await super().create_volume(volume, gigabytes, snapshot)
        await self.spend()

    async def snapshot_volume(self, volume: str, snapshot: str, note: str) -> None:
        if snapshot in self.copies and volume not in self.sizes:
            return
        await self.spend()
        await super().snapshot_volume(volume, snapshot, note)
        await self.spend()

    async def delete_volume(self, volume: str) -> None:
        await self.spend()
        await super().delete_volume(volume)
        await self.spend()


@pytest.mark.parametrize("phase", ["create", "delete"])
async def test_a_crash_at_any_moment_leaves_nothing(tmp_path: Path, phase: str) -> None:
    """The daemon ends at each call of its platform; the next one carries on to the same end, and no volume is left."""
    source = cfn(
        S=instance(BlockDeviceMappings=[ebs("/dev/sdh", VolumeSize=2)]),
        D={"Type": "AWS::EC2::Volume", "DeletionPolicy": "Snapshot", "Properties": {"Size": 3}},
        A={"Type": "AWS::EC2::VolumeAttachment", "Properties": {"VolumeId": {"Ref": "D"}, "InstanceId": {"Ref": "S"}}},
    )
    points = 0
    for point in range(100):
        folder = tmp_path / str(point)
        folder.mkdir()
        platform = EndingDisks()
        manager = await opened(folder, platform)
        platform.left = point if phase == "create" else -1
        stack = await manager.create("one", source)
        if phase == "delete":
            await manager.wait(stack)
            platform.left = point
            await manager.delete(stack)
        while stack.busy and not platform.ended:
            await asyncio.sleep(0)
        await manager.close()
        finished = not platform.ended
        points += platform.ended
        platform.ended, platform.left = False, -1
        again = await opened(folder, platform)
        stack = again.get(stack.id)
        await again.wait(stack)
        if phase == "create":
            assert stack.status == "CREATE_COMPLETE", (point, stack.reason)
            assert platform.disks("s-") == {"/dev/sdh": 2, "/dev/vdb": 3}
            await again.delete(stack)
            await again.wait(stack)
        assert (stack.status, platform.sizes, platform.stored) == ("DELETE_COMPLETE", {}, {}), point
        assert list(platform.copies.values()) == [(3, "one/D")], point
        await again.close()
        if finished:
            break
    assert points >= 8


@pytest.mark.parametrize(
    ("resource", "says"),
    [
        (instance(BlockDeviceMappings=[ebs("/dev/sdh")]), "an Ebs volume with a VolumeSize or a SnapshotId is needed"),
        (
            instance(BlockDeviceMappings=[{"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}]),
            "no disks of the host",
        ),
        (instance(BlockDeviceMappings=[ebs("/dev/sda1", DeleteOnTermination=False)]), "goes with the guest"),
        (instance(BlockDeviceMappings=[ebs("/dev/sdh", VolumeSize=1, KmsKeyId="k")]), "no keys to encrypt"),
        (instance(BlockDeviceMappings=[ebs("/dev/../x", VolumeSize=1)]), "is no name of a disk"),
        (instance(Volumes=[{"Device": "/dev/vdb", "VolumeId": "a"}] * 2), "/dev/vdb is there twice"),
        (instance(Volumes=[{"Device": "/dev/vdb"}]), "'VolumeId' is needed"),
        (nova(block_device_mapping_v2=[{"volume_id": "v", "boot_index": 0}]), "starting from a volume is not offered"),
        (nova(block_device_mapping_v2=[{"image": "x", "volume_size": 1}]), "starting from a volume is not offered"),
        (
            nova(block_device_mapping=[{"device_name": "vda", "volume_id": "v"}]),
            "starting from a volume is not offered",
        ),
        (
            nova(block_device_mapping_v2=[{"delete_on_termination": True}]),
            "volume_size or snapshot_id for a new volume",
        ),
        (nova(block_device_mapping_v2=[{"swap_size": 1}]), "no swap of their own"),
    ],
)
async def test_refused_before_anything_starts(tmp_path: Path, resource: dict[str, Any], says: str) -> None:
    platform = DiskPlatform()
    manager = await opened(tmp_path, platform)
    with pytest.raises(InvalidDocument, match=says):
        await manager.create("no", cfn(S=resource) if "Type" in resource else hot(s=resource))
    assert (platform.applied, platform.sizes) == ([], {})
    await manager.close()


async def test_a_platform_without_volumes_refuses_them(tmp_path: Path) -> None:
    manager = await opened(tmp_path, MemoryPlatform())
    for resource in (
        cfn(S=instance(BlockDeviceMappings=[ebs("/dev/sdh", VolumeSize=2)])),
        hot(s=nova(block_device_mapping_v2=[{"volume_size": 1}])),
    ):
        with pytest.raises(InvalidDocument, match="this platform has no volumes"):
            await manager.create("no", resource)
    await manager.close()


async def test_snapshots_are_made_when_volumes_go_and_become_volumes_again(tmp_path: Path) -> None:
    platform = DiskPlatform()
    manager = await opened(tmp_path, platform)

    def volume(zone: str = "a", **policies: str) -> dict[str, Any]:
        return {"Type": "AWS::EC2::Volume", **policies, "Properties": {"Size": 2, "AvailabilityZone": zone}}

    keeping = {"DeletionPolicy": "Snapshot", "UpdateReplacePolicy": "Snapshot"}
    plain = volume()
    stack = await manager.create("snaps", cfn(v=volume(**keeping), gone=volume(DeletionPolicy="Snapshot"), plain=plain))
    await manager.wait(stack)
    assert (stack.status, platform.copies) == ("CREATE_COMPLETE", {})
    source = cfn(v=volume("b", **keeping), plain=plain)
    assert [change.why for change in manager.plan(stack, source).changes if change.name == "gone"] == [
        "a snapshot is made first"
    ]
    await manager.update(stack, source)
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert sorted(note for _, note in platform.copies.values()) == ["snaps/gone", "snaps/v"]
    told = [event.reason for event in manager.events(stack) if event.reason.startswith("snapshot snap-")]
    assert sorted(told) == sorted(f"snapshot {name}" for name in platform.copies)
    await manager.delete(stack)
    await manager.wait(stack)
    assert (stack.status, platform.sizes) == ("DELETE_COMPLETE", {})
    assert sorted(note for _, note in platform.copies.values()) == ["snaps/gone", "snaps/v", "snaps/v"]

    snapshot = min(platform.copies)
    mappings = [{"DeviceName": "/dev/sdh", "Ebs": {"SnapshotId": snapshot}}]
    again = await manager.create(
        "again",
        cfn(
            v={"Type": "AWS::EC2::Volume", "Properties": {"SnapshotId": snapshot, "Size": 5}},
            c={"Type": "OS::Cinder::Volume", "Properties": {"backup_id": snapshot}},
            S=instance(BlockDeviceMappings=mappings),
        ),
    )
    await manager.wait(again)
    assert again.status == "CREATE_COMPLETE", again.reason
    assert sorted(platform.sizes.values()) == [2, 2, 5]
    assert manager.current(again)["c"].attributes["size"] == "2"
    bad = await manager.create("bad", cfn(v={"Type": "AWS::EC2::Volume", "Properties": {"SnapshotId": "snap-none"}}))
    await manager.wait(bad)
    assert "there is no snapshot snap-none" in bad.reason
    await manager.close()


async def test_a_creation_that_is_undone_leaves_no_snapshot(tmp_path: Path) -> None:
    platform = DiskPlatform()
    manager = await opened(tmp_path, platform)
    volume = {"Type": "AWS::EC2::Volume", "DeletionPolicy": "Snapshot", "Properties": {"Size": 2}}
    fails = {"Type": "OS::Heat::TestResource", "DependsOn": "v", "Properties": {"fail": True}}
    stack = await manager.create("undone", cfn(v=volume, x=fails))
    await manager.wait(stack)
    assert (stack.status, platform.sizes, platform.copies) == ("ROLLBACK_COMPLETE", {}, {})
    await manager.close()


@pytest.mark.parametrize("policy", ["DeletionPolicy", "UpdateReplacePolicy"])
async def test_a_snapshot_that_can_not_be_is_refused(tmp_path: Path, policy: str) -> None:
    """Of a type that has none, and on a platform that has none: never silently."""
    manager = await opened(tmp_path, DiskPlatform())
    with pytest.raises(InvalidDocument, match="no snapshot can be made before it is deleted"):
        await manager.create("no", cfn(S={**instance(), policy: "Snapshot"}))
    await manager.close()
    (tmp_path / "other").mkdir()
    platform = DiskPlatform()
    platform.capabilities = frozenset({"guests", "volumes"})  # type: ignore[misc]
    manager = await opened(tmp_path / "other", platform)
    volume = {"Type": "AWS::EC2::Volume", "Properties": {"Size": 2}}
    with pytest.raises(InvalidDocument, match="no snapshot can be made before it is deleted"):
        await manager.create("no", cfn(v={**volume, policy: "Snapshot"}))
    for refused in (
        {"Type": "AWS::EC2::Volume", "Properties": {"SnapshotId": "snap-1"}},
        instance(BlockDeviceMappings=[{"DeviceName": "/dev/sdh", "Ebs": {"SnapshotId": "snap-1"}}]),
    ):
        with pytest.raises(InvalidDocument, match="there are no snapshots of volumes on this platform"):
            await manager.create("no", cfn(v=refused))
    await manager.close()


async def test_what_is_retained_except_on_create_stays(tmp_path: Path) -> None:
    platform = DiskPlatform()
    manager = await opened(tmp_path, platform)
    volume = {"Type": "AWS::EC2::Volume", "DeletionPolicy": "RetainExceptOnCreate", "Properties": {"Size": 2}}
    stack = await manager.create("kept", cfn(v=volume))
    await manager.wait(stack)
    (name,) = platform.sizes
    assert (manager.owner_of_volume(name), manager.owner_of_volume("vol-other")) == ("kept", "")
    await manager.delete(stack)
    await manager.wait(stack)
    assert (platform.sizes, manager.owner_of_volume(name)) == ({name: 2}, "")
    await manager.close()
