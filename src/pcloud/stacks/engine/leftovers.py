"""Removes what resources left whose records can not be read: found by what follows from their ids, and from their stack's.

Guests and nested stacks go first, those that no readable record claims; then the readable resources are deleted by their
types; then what the lost ones may have had. That the first part is done is stored with each lost record, so that a restart
does not take a guest that was kept meanwhile for one of theirs.

Concurrency: part of a stack's one operation, in sequence. A lost record goes last, after its event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pcloud.model.deployable import Assembly
from pcloud.model.errors import PcloudError
from pcloud.stacks.engine.services import key_id
from pcloud.stacks.guests import assemblies
from pcloud.stacks.records import ResourceRecord, StackRecord
from pcloud.stacks.salvage import unknown_of
from pcloud.stacks.types.base import ResourceFailed, failed
from pcloud.stacks.types.networks import own_id
from pcloud.stacks.types.volumes import volume_id

if TYPE_CHECKING:
    from pcloud.stacks.engine.manager import StackManager

_SWEPT = "swept"
_NETWORKED = ("OS::Neutron::", "AWS::EC2::")


class Leftovers:
    """The part of one stack's deletion that looks for what nobody can name any more."""

    def __init__(self, manager: StackManager, stack: StackRecord) -> None:
        self.manager = manager
        self.stack = stack

    async def guests(self, lost: Sequence[ResourceRecord]) -> list[ResourceRecord]:
        """Delete the guests and nested stacks of these records: those of the stack that nothing else claims. Return the
        records for which that did not succeed."""
        if all(record.data.get(_SWEPT) for record in lost):
            return []
        manager, stack = self.manager, self.stack
        claiming = [record for record in manager.records(stack) if record not in lost or _kept(record)]
        claimed = {record.data.get("assembly") or assemblies.assembly_name(record) for record in claiming}
        nested = {record.id for record in claiming}
        known = {str(record.data["deployable"]) for record in claiming if "deployable" in record.data}
        try:
            for child in [one for one in manager.stacks.values() if one.parent == stack.id and one.live]:
                if child.id not in nested:
                    await self._delete(child)
            for name in sorted(known | set(await assemblies.deployables_of(manager.platform, stack))):
                gone = await assemblies.remove_where(
                    manager.platform, manager.now, name, lambda one: one not in claimed
                )
                if gone:
                    sentence = (
                        f"no record that can be read claims {', '.join(one.name for one in gone)} of {name}: deleted"
                    )
                    if left := self._volumes_left(gone):
                        sentence += f"; their volumes {', '.join(left)} are left"
                    manager.event(stack, None, "DELETE_IN_PROGRESS", sentence)
        except (ResourceFailed, PcloudError) as problem:
            for record in lost:
                manager.set_status(stack, record, "DELETE_FAILED", failed(problem))
            return list(lost)
        for record in lost:
            record.data[_SWEPT] = True
            manager.save(record)
        await manager.store.flush()
        return []

    def _volumes_left(self, gone: Sequence[Assembly]) -> list[str]:
        """Return the volumes that guests had and that are no resource's of any stack."""
        volumes = {one.volume for assembly in gone for one in assembly.volumes}
        return sorted([one for one in volumes if not self.manager.owner_of_volume(one)])

    async def _delete(self, child: StackRecord) -> None:
        await self.manager.delete(child, forced=True)
        await self.manager.wait(child)
        if child.live:
            raise ResourceFailed(child.reason or f"the nested stack {child.name} was not deleted")

    async def things(self, lost: Sequence[ResourceRecord]) -> list[ResourceRecord]:
        """Delete what else follows from these records' ids, and forget them, each with an event that names what is not known
        to be gone. Return those for which that did not succeed."""
        left = []
        for record in lost:
            try:
                found, stays = ([], []) if _kept(record) else await self._by_id(record)
            except PcloudError as problem:
                self.manager.set_status(self.stack, record, "DELETE_FAILED", failed(problem))
                left.append(record)
                continue
            self.manager.set_status(self.stack, record, "DELETE_SKIPPED", _sentence(record, found, stays))
            self.manager.drop(record)
        return left

    async def _by_id(self, record: ResourceRecord) -> tuple[list[str], list[str]]:
        """Remove what has a name that follows from the record's id; return what was there and is gone, and what stays."""
        manager, found, stays = self.manager, [], []
        platform = manager.platform
        await platform.release_address(record.id)
        volume = volume_id(record)
        exists, _ = await platform.volume_holder(volume)
        if exists and not unknown_of(record) & {"deletion_policy"} and record.deletion_policy == "Delete":
            await platform.delete_volume(volume)
            found.append(f"the volume {volume}")
        elif exists:
            stays.append(f"the volume {volume}, which its policy keeps or may keep")
        if platform.networks is not None and (not record.type or record.type.startswith(_NETWORKED)):
            for kind in ("router", "vpc"):
                await platform.networks.remove_router(own_id(kind, record))
            for kind in ("subnet", "net"):
                await platform.networks.remove_subnet(own_id(kind, record))
                await platform.networks.remove_network(own_id(kind, record))
        if key_id(record.id) in manager.keys:
            manager.drop_key(key_id(record.id))
            found.append("its access key")
        return found, stays


def _kept(record: ResourceRecord) -> bool:
    return "deletion_policy" not in unknown_of(record) and record.deletion_policy != "Delete"


def _sentence(record: ResourceRecord, found: Sequence[str], stays: Sequence[str]) -> str:
    what = record.type or "a resource of a type that is not known"
    named = f" ({record.physical})" if record.physical else ""
    parts = [f"{what}{named}: its record can not be read, {', '.join(sorted(unknown_of(record)))} are not known"]
    if _kept(record):
        parts.append(f"its policy is {record.deletion_policy}: nothing of it was looked for")
    else:
        parts += [f"deleted: {', '.join(found)}"] if found else []
        parts += [f"left: {', '.join(stays)}"] if stays else []
        parts.append("guests that nothing else claims are gone; what else it had made must be looked for by hand")
    return "; ".join(parts)
