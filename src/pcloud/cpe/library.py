"""JEOS images, and the library of assemblies from which pcloudsh puts deployables together.

A deployable holds library assemblies *by reference*: a change of the library assembly reaches every deployable that
holds it. Concurrency: changes hold one lock; every deployable is stored whole, one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from pcloud.cpe.jobs import Progress, Work
from pcloud.cpe.parts import find_assembly
from pcloud.cpe.ports import ImportRequest, Jeos, TemplateInfo
from pcloud.model import names
from pcloud.model.assemble import default_transport
from pcloud.model.deployable import Assembly, Deployable, Escalation, Resource
from pcloud.model.errors import Conflict, InvalidDocument, NotFound, PcloudError, Problem
from pcloud.store.rows import Job

if TYPE_CHECKING:
    from pcloud.cpe.engine import CloudPolicyEngine


class LibraryService:
    """JEOS, library assemblies, and deployables made of them."""

    def __init__(self, owner: CloudPolicyEngine) -> None:
        self._owner = owner
        self._store = owner.store.library
        self._changes = asyncio.Lock()
        self._building: dict[tuple[str, str], str] = {}

    # --- JEOS

    async def jeos(self) -> list[Jeos]:
        """Return the JEOS images; one that a job builds now is `building`."""
        return [
            msgspec.structs.replace(one, state="building") if (one.name, one.arch) in self._building else one
            for one in await self._owner.images.jeos()
        ]

    async def build_jeos(self, name: str, arch: str) -> Job:
        """Build a JEOS; a job that does so already is returned. NotFound when there is no such definition."""
        if not any((one.name, one.arch) == (name, arch) for one in await self._owner.images.jeos()):
            known = ", ".join(sorted(f"{one.name} {one.arch}" for one in await self._owner.images.jeos()))
            raise NotFound(
                Problem(
                    code="NO_SUCH_JEOS",
                    message=f"there is no JEOS `{name[:80]}` for `{arch[:80]}`",
                    hint=f"known: {known}",
                )
            )
        identifier = self._building.get((name, arch))
        if identifier:
            return await self._owner.jobs.get(identifier)
        self._building[name, arch] = ""
        try:
            arguments = {"name": name, "arch": arch}
            job = await self._owner.jobs.start(
                "jeos.build", f"{name}/{arch}", self._jeos_work(name, arch), arguments=arguments
            )
        except PcloudError:
            self._building.pop((name, arch), None)
            raise
        if (name, arch) in self._building:
            self._building[name, arch] = job.id
        return job

    def resume_jeos(self, job: Job) -> None:
        """Go on with a build of an earlier daemon."""
        name, arch = str(job.arguments.get("name", "")), str(job.arguments.get("arch", ""))
        self._building[name, arch] = job.id
        self._owner.jobs.resume(job, self._jeos_work(name, arch))

    def _jeos_work(self, name: str, arch: str) -> Work:
        async def work(progress: Progress) -> None:
            try:
                await self._owner.images.build_jeos(name, arch, progress)
            finally:
                self._building.pop((name, arch), None)
            progress(1.0, f"JEOS {name} {arch} is ready")

        return work

    async def delete_jeos(self, name: str, arch: str) -> None:
        """Remove a JEOS; Conflict while an assembly uses it or it is being built."""
        if (name, arch) in self._building:
            raise Conflict(Problem(code="JEOS_BUILDING", message=f"JEOS {name} {arch} is being built"))
        users = [one.name for one in await self._store.list() if (one.image, one.arch) == (name, arch)]
        names = list(self._owner.desired.rows)
        for start in range(0, len(names), 200):
            found = await self._owner.store.deployables.definitions(names[start : start + 200])
            users += [
                f"{deployable}/{one.name}"
                for deployable, definition in found.items()
                for one in definition.deployable.assemblies
                if (one.image, one.arch) == (name, arch)
            ]
        if users:
            raise Conflict(
                Problem(
                    code="JEOS_IN_USE",
                    message=f"JEOS {name} {arch} is used by {', '.join(users[:5])}"
                    + (" and others" if users[5:] else ""),
                    hint="delete those assemblies first",
                )
            )
        await self._owner.images.delete_jeos(name, arch)
        self._owner.documents.know_images(self._owner.images.imported())

    async def import_image(self, wanted: ImportRequest, content: AsyncIterator[bytes]) -> Jeos:
        """Take over a disk image made by others, under a name that no JEOS has; PcloudError when it can not be."""
        owner = self._owner
        if not names.matches(names.IMAGE_NAME, wanted.name):
            raise InvalidDocument.of("INVALID_NAME", f"`{wanted.name[:80]}` is not an image's name", path="name")
        known = {one.name for one in await owner.images.jeos()} - owner.images.imported().keys()
        if wanted.name in known or owner.documents.is_distribution(wanted.name):
            raise Conflict.of("IMAGE_EXISTS", f"`{wanted.name}` is a JEOS", hint="give the image another name")
        if wanted.like and not owner.documents.is_distribution(wanted.like):
            raise NotFound.of(
                "UNKNOWN_DISTRIBUTION", f"there is no distribution `{wanted.like[:80]}`",
                hint=f"name one like: {', '.join(sorted(known))}",
            )  # fmt: skip
        if not any(wanted.arch == one.arch for one in await owner.images.jeos()):
            raise InvalidDocument.of("UNKNOWN_ARCH", f"`{wanted.arch[:80]}` is no architecture known here", path="arch")
        made = await owner.images.import_image(wanted, content)
        owner.documents.know_images(owner.images.imported())
        owner.emit("image.imported", f"the image {made.name} for {made.arch} was imported: {wanted.digest}")
        return made

    def templates(self) -> Sequence[TemplateInfo]:
        """Return the resource templates."""
        return self._owner.documents.templates()

    # --- assemblies

    async def assemblies(self) -> list[Assembly]:
        """Return all library assemblies."""
        return await self._store.list()

    async def get(self, name: str) -> Assembly:
        """Return one; NotFound."""
        found = await self._store.get(name)
        if found is None:
            raise NotFound(
                Problem(
                    code="NO_SUCH_ASSEMBLY",
                    message=f"there is no assembly `{name[:80]}`",
                    hint="pcloudsh assembly_list lists them",
                )
            )
        return found

    async def holders(self, name: str) -> list[str]:
        """Return the deployables that hold a library assembly."""
        return await self._owner.store.deployables.holding(name)

    async def create(self, name: str, jeos: str, arch: str) -> Assembly:
        """Make an assembly from a JEOS; Conflict when the name is taken, NotFound when there is no such JEOS."""
        assembly = self._owner.documents.assembly(name, jeos, arch)
        if not any((one.name, one.arch) == (jeos, arch) for one in await self._owner.images.jeos()):
            raise NotFound(
                Problem(
                    code="NO_SUCH_JEOS",
                    message=f"there is no JEOS `{jeos[:80]}` for `{arch[:80]}`",
                    hint="pcloudsh jeos_list lists them",
                )
            )
        async with self._changes:
            await self._free(name)
            await self._store.put(assembly)
        return assembly

    async def clone(self, name: str, to: str) -> Assembly:
        """Make another assembly like one; its guests get an identity (name, address, keys) of their own."""
        async with self._changes:
            source = await self.get(name)
            self._owner.documents.assembly(to, source.image, source.arch)  # checks the name
            await self._free(to)
            clone = msgspec.structs.replace(source, name=to, uuid="")
            await self._store.put(clone)
        return clone

    async def remove(self, name: str) -> None:
        """Remove an assembly; Conflict while a deployable holds it."""
        async with self._changes:
            await self.get(name)
            holders = await self.holders(name)
            if holders:
                raise Conflict(
                    Problem(
                        code="ASSEMBLY_IN_USE",
                        message=f"assembly {name} is in deployable {', '.join(holders[:5])}",
                        hint="remove it from the deployable first",
                    )
                )
            await self._store.remove(name)

    async def add_resource(self, assembly: str, name: str, template: str) -> Resource:
        """Add a resource made from a template; the packages that it needs come into the image."""
        async with self._changes:
            old = await self.get(assembly)
            if any(one.name == name for one in old.resources):
                raise Conflict(
                    Problem(code="RESOURCE_EXISTS", message=f"assembly {assembly} has a resource {name} already")
                )
            resource = self._owner.documents.resource(old, name, template)
            await self._store_changed(msgspec.structs.replace(old, resources=(*old.resources, resource)))
        return resource

    async def remove_resource(self, assembly: str, name: str) -> None:
        """Remove a resource."""
        async with self._changes:
            old = await self.get(assembly)
            self._resource(old, name)
            left = tuple(one for one in old.resources if one.name != name)
            await self._store_changed(msgspec.structs.replace(old, resources=left))

    async def set_escalation(self, assembly: str, escalation: Escalation, *, resource: str = "") -> None:
        """Set when failures of an assembly, or of one resource of it, escalate."""
        async with self._changes:
            old = await self.get(assembly)
            if not resource:
                await self._store_changed(msgspec.structs.replace(old, escalation=escalation))
                return
            self._resource(old, resource)
            changed = tuple(
                msgspec.structs.replace(one, escalation=escalation) if one.name == resource else one
                for one in old.resources
            )
            await self._store_changed(msgspec.structs.replace(old, resources=changed))

    def _resource(self, assembly: Assembly, name: str) -> Resource:
        try:
            return assembly.resource(name)
        except KeyError:
            raise NotFound(
                Problem(code="NO_SUCH_RESOURCE", message=f"assembly {assembly.name} has no resource `{name[:80]}`")
            ) from None

    async def _free(self, name: str) -> None:
        if await self._store.get(name) is not None:
            raise Conflict(Problem(code="ASSEMBLY_EXISTS", message=f"there is an assembly {name} already"))

    async def _store_changed(self, assembly: Assembly) -> None:
        """Check the changed assembly inside every deployable that holds it, then store it in the library and in those."""
        owner = self._owner
        changed: list[tuple[Deployable, tuple[str, ...]]] = []
        for name in await self.holders(assembly.name):
            found = await owner.definition(name)
            others = tuple(assembly_in(one, assembly) for one in found.deployable.assemblies)
            deployable = msgspec.structs.replace(found.deployable, assemblies=others)
            changed.append((await asyncio.to_thread(owner.documents.check, deployable), found.library))
        await self._store.put(assembly)
        for deployable, library in changed:
            row = owner.desired.rows.get(deployable.name)
            if row is not None and row.phase == "active":
                await owner.put(deployable, start=row.target == "started", library=library)

    # --- deployables made of them

    async def create_deployable(self, name: str, infrastructure: str, username: str, monitor: str) -> None:
        """Make an empty deployable that is not started; Conflict when the name is taken."""
        if name in self._owner.desired.rows:
            raise Conflict(Problem(code="DEPLOYABLE_EXISTS", message=f"there is a deployable {name} already"))
        self._owner.documents.assembly(name, "bookworm", "x86_64")  # the rule for names is the same
        if monitor not in ("am", "pm", "none"):
            raise InvalidDocument(
                Problem(
                    code="INVALID_VALUE",
                    message="monitor must be `am` (active), `pm` (passive) or `none`",
                    path="monitor",
                )
            )
        deployable = Deployable(name=name, infrastructure=infrastructure, username=username, monitor=monitor)
        await self._owner.put(deployable, start=False)

    async def add_assembly(self, deployable: str, assembly: str) -> None:
        """Put a library assembly into a deployable; brought about at once when that is started."""
        async with self._changes:
            self._owner.desired.active(deployable)
            found = await self._owner.definition(deployable)
            if any(one.name == assembly for one in found.deployable.assemblies):
                raise Conflict(
                    Problem(
                        code="ASSEMBLY_EXISTS", message=f"deployable {deployable} has an assembly {assembly} already"
                    )
                )
            transport = default_transport(found.deployable.monitor)
            member = msgspec.structs.replace(await self.get(assembly), transport=transport)
            assemblies = (*found.deployable.assemblies, member)
            await self._put(found.deployable, assemblies, (*found.library, assembly))

    async def remove_assembly(self, deployable: str, assembly: str) -> None:
        """Take an assembly out of a deployable; its guest goes."""
        async with self._changes:
            self._owner.desired.active(deployable)
            found = await self._owner.definition(deployable)
            find_assembly(found.deployable, assembly)
            left = tuple(one for one in found.deployable.assemblies if one.name != assembly)
            await self._put(found.deployable, left, tuple(one for one in found.library if one != assembly))

    async def _put(self, old: Deployable, assemblies: tuple[Assembly, ...], library: tuple[str, ...]) -> None:
        new = msgspec.structs.replace(old, assemblies=assemblies)
        if assemblies:
            new = await asyncio.to_thread(self._owner.documents.check, new)
        started = self._owner.desired.rows[old.name].target == "started"
        await self._owner.put(new, start=started, library=library)


def assembly_in(old: Assembly, new: Assembly) -> Assembly:
    """Return `new` where it takes the place of `old` (same name), with the order and transport that the deployable gave
    it."""
    return msgspec.structs.replace(new, after=old.after, transport=old.transport) if old.name == new.name else old
