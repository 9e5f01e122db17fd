"""A template with a volume, unmodified, by the real client: the database lies on it, and it outlives what happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from pcloud.infrastructure.lxc_volumes import available
from tests.e2e.stack_stage import StackStage, shows, template
from tests.e2e.stage import until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not available(), reason="this kernel has no loop devices"),
]
INSTALLER = "&rsaquo; Installation"


@pytest.fixture(scope="module")
def stage() -> Iterator[StackStage]:
    """A daemon of our own."""
    stage = StackStage("v")
    stage.begin()
    try:
        yield stage
    finally:
        stage.close()


def loops(stage: StackStage) -> list[str]:
    """Loop devices on this daemon's volumes."""
    told = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    return [line for line in told.splitlines() if str(stage.home) in line]


def test_wordpress_with_its_database_on_a_volume(stage: StackStage) -> None:
    path = template("cfn/F17/WordPress_Single_Instance_With_EBS.template")
    stage.aws("deploy", "--stack-name", "ebs", "--template-file", str(path),
              "--parameter-overrides", "KeyName=anybody", "VolumeSize=2")  # fmt: skip
    url = stage.outputs("ebs")["WebsiteURL"]
    place = stage.places("ebs")["wikidatabase"]
    until(
        "the database is on the volume",
        lambda: "/dev/vdc1 /var/lib/mysql" in stage.guest(place, "cat", "/proc/mounts"),
        600,
    )
    shows(url, INSTALLER, 600)
    assert stage.guest(place, "blockdev", "--getsize64", "/dev/vdc") == str(2 << 30)
    stage.running(place.partition("/")[0], 300)
    assert "ibdata1" in stage.guest(place, "ls", "/var/lib/mysql")

    # The guest dies: it comes back with the disk, partitions and all. Its script mounts it once, as on EC2.
    before = stage.guest_init(place.replace("/", "."))
    os.kill(before, signal.SIGKILL)
    mounted = "mount /dev/vdc1 /mnt && ls /mnt/ibdata1 && umount /mnt"
    until("another guest answers", lambda: stage.reborn(place, before))
    assert stage.guest(place, "sh", "-c", mounted) == "/mnt/ibdata1"

    held = stage.ask("describe-stack-resource", "--stack-name", "ebs", "--logical-resource-id", "DataVolume")
    volume = held["StackResourceDetail"]["PhysicalResourceId"]
    assert (stage.home / f"infrastructure/lxc/volumes/{volume}.img").stat().st_size == 2 << 30
    assert len(loops(stage)) == 1

    document = json.loads(path.read_text())
    document["Resources"]["DataVolume"]["DeletionPolicy"] = "Retain"
    kept = stage.write("kept.template", json.dumps(document))
    stage.aws("deploy", "--stack-name", "ebs", "--template-file", kept, "--parameter-overrides", "VolumeSize=3")
    assert stage.guest(place, "blockdev", "--getsize64", "/dev/vdc") == str(3 << 30), "it grows where it is"
    stage.aws("delete-stack", "--stack-name", "ebs")
    stage.aws("wait", "stack-delete-complete", "--stack-name", "ebs")
    assert stage.left() == []
    assert loops(stage) == []
    assert (stage.home / f"infrastructure/lxc/volumes/{volume}.img").exists(), "it was to be retained"


def test_a_retained_volume_goes_to_another_stack_and_one_guest_has_it_at_a_time(stage: StackStage) -> None:
    (image,) = (stage.home / "infrastructure/lxc/volumes").iterdir()
    guest = {"type": "PCloud::Assembly", "properties": {"image": "bookworm"}}

    def attached(server: str) -> dict[str, object]:
        properties = {"instance_uuid": {"get_resource": server}, "volume_id": image.stem}
        return {"type": "OS::Cinder::VolumeAttachment", "properties": properties}

    body = {
        "heat_template_version": "2018-08-31",
        "resources": {
            "one": guest,
            "two": guest,
            "own": {"type": "OS::Cinder::Volume", "properties": {"size": 1, "name": "new"}},
            "held": attached("one"),
        },
        "outputs": {"size": {"value": {"get_attr": ["own", "size"]}}},
    }
    first = stage.write("first.yaml", json.dumps(body))
    stage.pcloud("stack", "create", "again", "-t", first, "--wait")
    place = stage.places("again")["one"]
    assert stage.guest(place, "sh", "-c", "mount /dev/vdb1 /mnt && ls /mnt/ibdata1 && umount /mnt") == "/mnt/ibdata1"
    body["resources"]["twice"] = attached("two")
    refused = stage.run("stack", "update", "again", "-t", stage.write("twice.yaml", json.dumps(body)), "--wait")
    assert refused.returncode == 1
    assert f"the volume {image.stem} is attached to {place.replace('/', '.')}" in refused.stderr
    assert "vdb" in stage.guest(place, "ls", "/dev"), "what runs keeps what it has"
    stage.pcloud("stack", "delete", "again", "--wait")
    assert loops(stage) == []
    assert [one.name for one in image.parent.iterdir()] == [image.name], (
        "its own volume is gone, the other one is not its own"
    )
    image.unlink()


def test_a_server_brings_its_disks_and_takes_along_what_goes_with_it(stage: StackStage) -> None:
    """By the real client: `Volumes` and `BlockDeviceMappings` of an instance, and of a Nova server in the same stack."""

    def body(**more: object) -> str:
        ebs = {"DeviceName": "/dev/sdh", "Ebs": {"VolumeSize": 2}}
        properties = {
            "ImageId": "F17-x86_64-cfntools",
            "InstanceType": "m1.small",
            "BlockDeviceMappings": [ebs],
            **more,
        }
        block = [{"volume_size": 3, "delete_on_termination": True}]
        nova = {"image": "F17-x86_64-cfntools", "flavor": "m1.small", "block_device_mapping_v2": block}
        resources = {
            "data": {"Type": "AWS::EC2::Volume", "Properties": {"Size": 1}},
            "server": {"Type": "AWS::EC2::Instance", "Properties": properties},
            "other": {"Type": "OS::Nova::Server", "Properties": nova},
        }
        return json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources})

    def sizes(place: str, *devices: str) -> list[int]:
        told = stage.guest(place, "sh", "-c", f"blockdev --getsize64 {' '.join(devices)}")
        return [int(line) >> 30 for line in told.split()]

    folder = stage.home / "infrastructure/lxc/volumes"
    volumes = [{"Device": "/dev/vdc", "VolumeId": {"Ref": "data"}}]
    stage.aws("deploy", "--stack-name", "disks", "--template-file", stage.write("disks.json", body(Volumes=volumes)))
    place, other = stage.places("disks")["server"], stage.places("disks")["other"]
    assert sizes(place, "/dev/vdc", "/dev/sdh") == [1, 2]
    assert sizes(other, "/dev/vdb") == [3]
    assert len(list(folder.iterdir())) == len(loops(stage)) == 3
    before = stage.guest_init(place.replace("/", "."))
    os.kill(before, signal.SIGKILL)
    until("another guest answers", lambda: stage.reborn(place, before), 300)
    again = stage.guest_init(place.replace("/", "."))
    assert sizes(place, "/dev/vdc", "/dev/sdh") == [1, 2]

    stage.aws("deploy", "--stack-name", "disks", "--template-file", stage.write("less.json", body()))
    assert "vdc" not in stage.guest(place, "ls", "/dev").split()
    assert sizes(place, "/dev/sdh") == [2]
    assert stage.guest_init(place.replace("/", ".")) == again, "it was taken off while the guest ran"
    stage.aws("delete-stack", "--stack-name", "disks")
    stage.aws("wait", "stack-delete-complete", "--stack-name", "disks")
    assert (loops(stage), stage.left(), folder.exists()) == ([], [], False)


def test_a_full_disk_of_the_host_is_the_volumes_guests_matter_alone(stage: StackStage) -> None:
    """Volumes lie in a file system that is far too small for what they promise; a guest fills it."""
    folder = stage.home / "infrastructure/lxc/volumes"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        guest = {"type": "PCloud::Assembly", "properties": {"image": "bookworm"}}
        disk = {"type": "OS::Cinder::Volume", "properties": {"size": 1}}
        held = {"instance_uuid": {"get_resource": "one"}, "volume_id": {"get_resource": "disk"}}
        attached = {"type": "OS::Cinder::VolumeAttachment", "properties": held}
        body = {
            "heat_template_version": "2018-08-31",
            "resources": {"one": guest, "two": guest, "disk": disk, "held": attached},
        }
        stage.pcloud("stack", "create", "full", "-t", stage.write("full.yaml", json.dumps(body)), "--wait")
        places = stage.places("full")
        processes = {name: stage.guest_init(place.replace("/", ".")) for name, place in places.items()}
        stage.guest(
            places["one"], "sh", "-ec", "mkfs.ext4 -q /dev/vdb; mount /dev/vdb /mnt; echo kept >/mnt/first; sync"
        )

        def told() -> list[dict[str, Any]]:
            return [each["data"] for each in stage.events() if each["type"].endswith("volume.room")]

        fill = "dd if=/dev/zero of=/mnt/much bs=1M count=128 conv=fsync 2>&1; echo ended $?"
        said = stage.guest(places["one"], "sh", "-c", fill)
        assert "ended 1" in said, said
        assert any(words in said for words in ("Input/output error", "No space left", "Read-only file system")), said
        until("it is told that the disk is full", lambda: [each["room"] for each in told()][-1:] == ["full"], 120)
        assert stage.guest(places["two"], "sh", "-c", "echo well >/root/file; cat /root/file") == "well"
        assert {name: stage.guest_init(place.replace("/", ".")) for name, place in places.items()} == processes
        assert (told()[-1]["severity"], told()[-1]["guests"]) == ("critical", [places["one"].replace("/", ".")])

        # Room is made on the host: that is told too, and the disk takes what is written again.
        subprocess.run(["mount", "-o", "remount,size=512m", folder], check=True)
        until("it is told that there is room", lambda: told()[-1]["room"] == "enough", 120)
        again = "umount /mnt; fsck.ext4 -fy /dev/vdb >/dev/null 2>&1; mount /dev/vdb /mnt; cat /mnt/first"
        assert stage.guest(places["one"], "sh", "-c", again) == "kept"
        whole = "dd if=/dev/zero of=/mnt/much bs=1M count=128 conv=fsync 2>/dev/null; echo ended $?; umount /mnt"
        assert stage.guest(places["one"], "sh", "-c", whole) == "ended 0"
        stage.pcloud("stack", "delete", "full", "--wait")
        assert (loops(stage), list(folder.iterdir())) == ([], [])
    finally:
        for line in loops(stage):  # of a test that failed
            subprocess.run(["losetup", "-d", line.partition(":")[0]], check=False)
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()
    assert stage.left() == []


def test_a_snapshot_is_made_and_becomes_a_volume_again(stage: StackStage) -> None:
    """`DeletionPolicy: Snapshot`, `snapshot_id`, and the commands for what outlives its stack."""
    guest = {"type": "PCloud::Assembly", "properties": {"image": "bookworm"}}

    def stack(**volume: object) -> dict[str, object]:
        held = {"instance_uuid": {"get_resource": "one"}, "volume_id": {"get_resource": "disk"}}
        disk = {"type": "OS::Cinder::Volume", **volume}
        attached = {"type": "OS::Cinder::VolumeAttachment", "properties": held}
        return {
            "heat_template_version": "2018-08-31",
            "resources": {"one": guest, "disk": disk, "held": attached},
        }

    body = stack(deletion_policy="Snapshot", properties={"size": 1})
    stage.pcloud("stack", "create", "snap", "-t", stage.write("snap.yaml", json.dumps(body)), "--wait")
    place = stage.places("snap")["one"]
    stage.guest(place, "sh", "-ec", "mkfs.ext4 -q /dev/vdb; mount /dev/vdb /mnt; echo kept >/mnt/file; umount /mnt")
    (volume,) = stage.json("volume", "list")
    assert (volume["stack"], volume["holder"], volume["size"]) == ("snap", place.replace("/", "."), 1 << 30)
    refused = stage.run("volume", "delete", volume["volume"])
    assert "belongs to the stack snap" in refused.stderr
    del body["resources"]["held"], body["resources"]["disk"]  # type: ignore[attr-defined]
    stage.pcloud("stack", "update", "snap", "-t", stage.write("less.yaml", json.dumps(body)), "--wait")
    (snapshot,) = stage.json("snapshot", "list")
    assert (snapshot["volume"], snapshot["note"], snapshot["size"]) == (volume["volume"], "snap/disk", 1 << 30)
    assert snapshot["taken"] < 1 << 29
    assert stage.json("volume", "list") == []

    body = stack(deletion_policy="Retain", properties={"snapshot_id": snapshot["snapshot"]})
    stage.pcloud("stack", "update", "snap", "-t", stage.write("again.yaml", json.dumps(body)), "--wait")
    assert stage.places("snap")["one"] == place
    assert stage.guest(place, "sh", "-ec", "mount /dev/vdb /mnt; cat /mnt/file; umount /mnt") == "kept"
    stage.pcloud("stack", "delete", "snap", "--wait")
    (volume,) = stage.json("volume", "list")
    assert (volume["stack"], volume["holder"]) == ("", "")
    assert volume["volume"] in stage.pcloud("volume", "list")
    assert snapshot["snapshot"] in stage.pcloud("snapshot", "list")
    stage.pcloud("volume", "delete", volume["volume"])
    stage.pcloud("snapshot", "delete", snapshot["snapshot"])
    assert "there is no snapshot" in stage.run("snapshot", "delete", snapshot["snapshot"]).stderr
    assert (stage.json("volume", "list"), stage.json("snapshot", "list"), loops(stage)) == ([], [], [])
    assert not (stage.home / "infrastructure/lxc/snapshots").exists()
