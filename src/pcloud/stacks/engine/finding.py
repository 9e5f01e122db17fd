"""Finds things in the records in memory: by id, by what they are called outside, by the guest that they are.

Concurrency: part of the manager, on its event loop; only what asks a guest for its address waits.
"""

from __future__ import annotations

from collections.abc import Iterator

from pcloud.stacks.platform import Platform
from pcloud.stacks.records import EXTERNAL, ResourceRecord, StackRecord


class Finding:
    """The part of the manager that looks for records. Whoever keeps them fills these tables."""

    platform: Platform
    stacks: dict[str, StackRecord]
    _records: dict[str, dict[str, ResourceRecord]]
    _current: dict[str, dict[str, ResourceRecord]]
    _aside: dict[str, list[ResourceRecord]]

    def record(self, identity: str) -> ResourceRecord | None:
        """Return a record by its id."""
        for records in self._records.values():
            if identity in records:
                return records[identity]
        return None

    def root_of(self, stack: str) -> str:
        """Return the id of the stack that a nested one belongs to in the end; its own id when it is not nested."""
        known = self.stacks.get(stack)
        return known.root or known.id if known is not None else stack

    def place_of(self, record: ResourceRecord) -> tuple[str, str] | None:
        """Return deployable and assembly of a guest's record; None when it is no guest."""
        deployable, assembly = record.data.get("deployable"), record.data.get("assembly")
        return (deployable, assembly) if isinstance(deployable, str) and isinstance(assembly, str) else None

    def guests_in(self, group: str) -> list[ResourceRecord]:
        """Return the guests that are in a security group, those of all stacks."""
        records = [record for of_stack in self._records.values() for record in of_stack.values()]
        return [record for record in records if group in record.data.get("groups", ()) and self.place_of(record)]

    async def address_of(self, record: ResourceRecord) -> str:
        """Return the address that a guest has now; empty when it has none."""
        place = self.place_of(record)
        status = await self.platform.status(place[0]) if place is not None else None
        if place is None or status is None:
            return ""
        return next((item.address for item in status.assemblies if item.name == place[1]), "")

    async def guest_at(self, address: str, stack: str) -> ResourceRecord | None:
        """Return the guest that has an address, of those in a stack's tree."""
        root = self.root_of(stack)
        for identity in [item.id for item in self.stacks.values() if self.root_of(item.id) == root]:
            for record in list(self._current.get(identity, {}).values()):
                if self.place_of(record) is not None and await self.address_of(record) == address:
                    return record
        return None

    def guest_of(self, deployable: str, assembly: str) -> ResourceRecord | None:
        """Return the resource whose guest an assembly is."""
        for records in self._current.values():
            for record in records.values():
                if record.data.get("assembly") == assembly and record.data.get("deployable") == deployable:
                    return record
        return None

    def find(self, physical: str) -> ResourceRecord | None:
        """Return the resource of that physical id or name, in any stack; not one that only stands for it."""
        if not physical:
            return None  # what is not made yet has no id
        for records in self._current.values():
            for record in records.values():
                if physical in (record.physical, record.data.get("reference")) and record.made_as != EXTERNAL:
                    return record
        return None

    def owner_of_volume(self, volume: str) -> str:
        """Return the name of the stack that a volume belongs to, as its own or with a server; empty when it is nobody's."""
        for record in self._kept():
            brought = [each["volume"] for each in record.data.get("disks", ()) if each["goes"]]
            if (record.physical == volume and record.made_as != EXTERNAL) or volume in brought:
                return self.stacks[record.stack].name
        return ""

    def _kept(self) -> Iterator[ResourceRecord]:
        """Yield the resources of all stacks, as far as their records can be read."""
        for of_stack in self._records.values():
            yield from of_stack.values()
        for aside in self._aside.values():
            yield from aside
