"""Brings the engines to the desired state.

Level-triggered: nobody sends a Load; whoever changed something marks the deployable dirty, and the slot's pump sends
what is desired *now*. Concurrency: one pump a connection, so the messages about one deployable are in order; it works
in chunks, so that thousands of deployables cost a few dozen queries. Image builds run as jobs beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from pcloud.cpe.desired import Desired, own_slot
from pcloud.cpe.fleet import Fleet
from pcloud.cpe.hosts import HostKeys
from pcloud.cpe.keys import KeyStore
from pcloud.cpe.link import EngineLink, new_request
from pcloud.cpe.ports import Images
from pcloud.cpe.slot import Slot
from pcloud.cpe.stranded import Stranded
from pcloud.dpe import messages
from pcloud.environment.infrastructure import Image
from pcloud.model.deployable import Assembly, Deployable, ResourceState
from pcloud.model.errors import PcloudError
from pcloud.model.validation import HOSTS
from pcloud.store.deployables import Deployables
from pcloud.store.rows import Definition, DeployableRow

_log = logging.getLogger(__name__)
ABSENT = "absent"
"""The digest of an image that is not there."""
_CHUNK = 50
_AGAIN = 5.0
"""Seconds until keys of hosts that could not be read are looked at again."""


class Reconciler:
    """Pumps desired state into the engine processes."""

    def __init__(
        self,
        desired: Desired,
        store: Deployables,
        keys: KeyStore,
        images: Images,
        *,
        stranded: Stranded,
        prepare: Callable[[str], Awaitable[None]],
        shared_slots: Callable[[], Sequence[str]],
        infrastructures: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._desired = desired
        self._store = store
        self._keys = keys
        self._images = images
        self.stranded = stranded
        self._prepare = prepare
        self._shared_slots = shared_slots
        self._infrastructures = infrastructures
        self._dirty: dict[str, set[str]] = {}
        self._wake: dict[str, asyncio.Event] = {}
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._moving: dict[str, asyncio.Task[None]] = {}
        self._waiting: set[str] = set()
        """Deployables whose hosts' keys could not be read, and that are looked at again soon."""
        self.fleet: Fleet

    def mark(self, name: str) -> None:
        """Something about this deployable changed."""
        row = self._desired.rows.get(name)
        if row is None or row.phase != "active":
            return
        self._dirty.setdefault(row.slot, set()).add(name)
        self._event(row.slot).set()
        self.fleet.ensure(row.slot)

    def link(self, slot: Slot, link: EngineLink) -> None:
        """A slot's process connected: everything of the slot is looked at anew."""
        old = self._pumps.pop(slot.name, None)
        if old is not None:
            old.cancel()
        self._dirty[slot.name] = set(self._desired.of_slot(slot.name))
        self._event(slot.name).set()
        self._pumps[slot.name] = asyncio.create_task(self._pump(slot.name, link), name=f"pump-{slot.name}")

    async def close(self) -> None:
        """Stop."""
        tasks = [*self._pumps.values(), *self._moving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _event(self, slot: str) -> asyncio.Event:
        return self._wake.setdefault(slot, asyncio.Event())

    async def _pump(self, slot: str, link: EngineLink) -> None:
        strangers = {name for name in link.loaded if name not in self._desired.rows}
        for name in strangers:
            link.send(messages.Unload(name=name, request=new_request()))
            link.loaded.discard(name)
        delay = 0.1
        while link.is_open():
            dirty = self._dirty.setdefault(slot, set())
            if not dirty:
                self._event(slot).clear()
                await self._event(slot).wait()
                continue
            rows = sorted(
                (self._desired.rows[name] for name in dirty if name in self._desired.rows),
                key=lambda row: (-row.priority, row.name),
            )[:_CHUNK]
            chunk = {row.name for row in rows}
            dirty.intersection_update(self._desired.rows.keys())
            dirty -= chunk
            try:
                await self._send(link, rows)
                delay = 0.1
            except PcloudError as error:
                if not link.is_open():
                    return
                _log.error("deployables could not be loaded: %s", error)
                for row in rows:
                    self._desired.overlay(row.name, ResourceState.STARTING, error.problems[0].message)
                dirty |= chunk
                await asyncio.sleep(delay)
                delay = min(delay * 2, 10.0)

    async def _send(self, link: EngineLink, rows: Sequence[DeployableRow]) -> None:
        names = [row.name for row in rows if self._wanted(row, link.slot)]
        definitions = await self._store.definitions(names, state=True)
        ready: list[tuple[DeployableRow, Definition, dict[str, tuple[str, Image]]]] = []
        former: set[str] = set()
        host_keys = HostKeys(self._infrastructures())
        for name, definition in definitions.items():
            row = self._desired.rows.get(name)
            if row is None or not self._wanted(row, link.slot) or self._moves(row, definition.deployable):
                continue
            if why := self.stranded.why(row, definition.applied or definition.deployable):
                self._desired.overlay(name, ResourceState.UNKNOWN, why)
                continue
            if row.infrastructure == HOSTS and not await self._opened(row, definition, host_keys):
                continue
            images = self._images_of(row, definition.deployable, definition.images)
            if images is None:
                await self._prepare(name)
                if definition.applied is None:
                    continue
                # What ran before goes on, watched and recovered, until the images of the change are there.
                older = definition.revision - 1
                definition = msgspec.structs.replace(definition, deployable=definition.applied, revision=older)
                images = self._images_of(row, definition.deployable, definition.images)
                former.add(name)
            if images is not None:
                ready.append((row, definition, images))
        loads = await asyncio.to_thread(self._loads, link, ready, host_keys)
        made_from = {
            row.name: {name: (wish, image.digest) for name, (wish, image) in images.items() if image.digest != ABSENT}
            for row, _, images in ready
        }
        fresh = {
            row.name: found.deployable
            for row, found, _ in ready
            if row.name not in former
            and (found.applied is not None or not row.loaded or made_from[row.name] != found.images)
        }
        who = self.stranded.who
        if who is not None:
            fresh |= {row.name: found.deployable for row, found, _ in ready if row.holder != who.id}
        if fresh:
            # Stored before it is sent: from here on guests may exist.
            await self._store.given(fresh, made_from, who=who)
        for name in fresh:
            current = self._desired.rows.get(name)
            if current is not None:
                self._desired.rows[name] = msgspec.structs.replace(
                    current, loaded=True, holder=who.id if who else None, host=who.host if who else None
                )
        for load in loads:
            row = self._desired.rows.get(load.deployable.name)
            if row is None or row.phase != "active":
                continue  # its end was asked for meanwhile
            link.send(msgspec.structs.replace(load, target=row.target, paused=row.paused))
            link.loaded.add(row.name)
            if row.name not in former:
                self._desired.clear(row.name)
        await link.drain()

    def _wanted(self, row: DeployableRow, slot: str) -> bool:
        """Tell whether the slot's engine shall hold it now."""
        if row.phase != "active" or row.slot != slot or row.name in self._moving:
            return False
        return row.loaded or row.target == "started"

    async def _opened(self, row: DeployableRow, definition: Definition, host_keys: HostKeys) -> bool:
        """Tell whether the keys of a deployable's hosts can be read. An engine without them would take its hosts for dead:
        it gets the deployable when they can be."""
        runs = definition.applied or definition.deployable
        names = dict.fromkeys(one.host for one in (*definition.deployable.assemblies, *runs.assemblies))
        try:
            await asyncio.to_thread(lambda: [host_keys.get(name) for name in names])
        except PcloudError as error:
            self._desired.overlay(row.name, ResourceState.UNKNOWN, error.problems[0].message)
            if row.name not in self._waiting:
                self._waiting.add(row.name)
                asyncio.get_running_loop().call_later(_AGAIN, self._look_again, row.name)
            return False
        return True

    def _look_again(self, name: str) -> None:
        self._waiting.discard(name)
        self.mark(name)

    def _images_of(
        self, row: DeployableRow, deployable: Deployable, given: Mapping[str, tuple[str, str]]
    ) -> dict[str, tuple[str, Image]] | None:
        """Return the wish and the image of each assembly; None when an image is missing and needed. A guest keeps the image
        it was made from (`given`) for as long as its assembly asks for the same: another version of ours, with another agent
        or another way to build, replaces no guest."""
        found: dict[str, tuple[str, Image]] = {}
        for assembly in deployable.assemblies:
            former, digest = given.get(assembly.name, ("", ""))
            image = self._images.ready(assembly)
            wish = self._images.wish(assembly) if former or image is not None else ""
            if former and (image is None or image.digest != digest) and former == wish:
                image = self._images.held(digest) or image
            if image is None and row.target == "started":
                return None
            found[assembly.name] = wish, image or absent_image(assembly)
        return found

    def _loads(
        self,
        link: EngineLink,
        ready: Sequence[tuple[DeployableRow, Definition, dict[str, tuple[str, Image]]]],
        host_keys: HostKeys,
    ) -> list[messages.Load]:
        """Put the messages together; reads and makes keys, so it runs in a thread."""
        loads = []
        for row, definition, images in ready:
            deployable = definition.deployable
            loads.append(
                messages.Load(
                    deployable=deployable,
                    target=row.target,
                    paused=row.paused,
                    revision=definition.revision,
                    guests=self.material(deployable, {name: image for name, (_, image) in images.items()}, host_keys),
                    state=None if row.name in link.loaded else definition.state,
                )
            )
            self._keys.retain(deployable.name, set(images))
        return loads

    def material(
        self, deployable: Deployable, images: dict[str, Image], host_keys: HostKeys | None = None
    ) -> dict[str, messages.GuestMaterial]:
        """Return what an engine needs to make each guest, hosts with the keys that the caller found; blocking."""
        host_keys = host_keys or HostKeys(self._infrastructures())
        guests = {}
        for name, image in images.items():
            assembly = deployable.assembly(name)
            given = host_keys.get(assembly.host) if assembly.host else None
            keys = given or self._keys.get(deployable.name, name)
            guests[name] = messages.GuestMaterial(
                image=image, identity=keys.identity, private_key=keys.private_key, host_key=keys.host_key
            )
        return guests

    def _moves(self, row: DeployableRow, deployable: Deployable) -> bool:
        """Begin to move a deployable whose isolation no longer fits its slot; tell whether it moves."""
        own = own_slot(row.name)
        if (deployable.isolation == "process") == (row.slot == own):
            return False
        target = self._desired.place(row.name, deployable.isolation, self._shared_slots())
        task = asyncio.create_task(self._move(row.name, target), name=f"move-{row.name}")
        self._moving[row.name] = task
        return True

    async def _move(self, name: str, target: str) -> None:
        """Have one engine let go of a deployable before another gets it. Its guests go on."""
        try:
            while True:
                row = self._desired.active(name)
                link = await self.fleet.ensure(row.slot).linked()
                try:
                    if name in link.loaded:
                        await link.request(messages.Unload(name=name, request=new_request()))
                        link.loaded.discard(name)
                    await self._store.moved(self._desired.active(name).name, target)
                except PcloudError as error:
                    _log.warning("deployable %s does not move to slot %s yet: %s", name, target, error)
                    await asyncio.sleep(0.5)
                    continue
                left = self._desired.rows[name].slot
                self._desired.rows[name] = msgspec.structs.replace(self._desired.rows[name], slot=target)
                break
        except PcloudError:
            return  # deleted meanwhile
        finally:
            self._moving.pop(name, None)
        self.mark(name)
        self.retire_if_empty(left)

    def retire_if_empty(self, slot: str) -> None:
        """End the engine process of a slot of one's own that nobody needs any longer."""
        if slot not in self._shared_slots() and not self._desired.of_slot(slot):
            self.fleet.retire(slot)


def absent_image(assembly: Assembly) -> Image:
    """Return what stands for an image that is not there, where none is needed (nothing will be started)."""
    return Image(name=assembly.image, digest=ABSENT)
