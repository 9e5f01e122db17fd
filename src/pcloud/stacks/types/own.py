"""PCloud::Deployable, PCloud::Assembly and PCloud::Resource: what a manifest says, as resources of a stack.

Their properties are the manifest's own words, read by the manifest's reader, so that the same is allowed and refused. An
assembly is one of the stack's deployable; a resource is added to a guest of the stack, whatever type made that, and is
monitored and restarted from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from pcloud.model.deployable import LOST, Assembly, Deployable, Resource, ResourceState
from pcloud.model.errors import PcloudError
from pcloud.stacks.functions.evaluation import unknown_in
from pcloud.stacks.guests import assemblies, drift
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, listing, mapping, text
from pcloud.stacks.types.base import Context, NotChecked, ResourceFailed, ResourceType

_UPDATE = OnChange.UPDATE


def problems_of(platform: Platform, document: Mapping[str, Any], prefix: str, path: str = "") -> list[PropertyProblem]:
    """Return what the manifest's reader says of a document, at the properties; `prefix` leads to them in the document."""
    if unknown_in(document) is not None:
        return []
    try:
        platform.read(document)
    except PcloudError as problem:
        return [
            PropertyProblem(
                code=each.code,
                message=each.message,
                path=tuple(filter(None, (path, *each.path.removeprefix(prefix).strip(".").split(".")))),
                hint=each.hint,
            )
            for each in problem.problems
        ]
    return []


class AssemblyType(ResourceType):
    """One guest of the stack's deployable, in the manifest's words."""

    names = ("PCloud::Assembly",)
    needs = frozenset({"guests", "access"})
    attributes = frozenset({"address", "deployable", "name"})
    schema: ClassVar[Schema] = {
        key: value
        for keys, value in (
            (("image",), text(required=True, on_change=_UPDATE)),
            (("arch", "agent", "transport", "apart"), text(on_change=_UPDATE)),
            (("packages", "commands"), listing(on_change=_UPDATE)),
            (("files", "resources", "escalation"), mapping(on_change=_UPDATE)),
            (("memory", "cpus", "start_timeout", "stop_timeout"), anything(on_change=_UPDATE)),
        )
        for key in keys
    }

    def document(self, properties: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Return the manifest of a deployable with this assembly."""
        description = {key: value for key, value in properties.items() if value is not None}
        return {"deployable": "stack", "assemblies": {name: description}}

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """As the manifest's reader says."""
        return problems_of(platform, self.document(properties, "guest"), "assemblies.guest")

    def assembly(self, context: Context) -> Assembly:
        """Return it as it shall be."""
        _, name = assemblies.place(context)
        return context.services.platform.read(self.document(context.properties, name)).assemblies[0]

    async def create(self, context: Context) -> None:
        """Make the guest; it is there when it runs with all its services."""
        await assemblies.put(context, self.assembly(context))
        await self._arrived(context)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """The engine touches only what differs; another image is another guest."""
        added = [one for one in (await self._resources(context)) if one.attached]
        wanted = self.assembly(context)
        await assemblies.put(context, msgspec.structs.replace(wanted, resources=(*wanted.resources, *added)))
        await self._arrived(context)

    async def _resources(self, context: Context) -> tuple[Resource, ...]:
        found = await assemblies.current(context)
        return found.resources if found is not None else ()

    async def _arrived(self, context: Context) -> None:
        status = await assemblies.running(context)
        name, assembly = assemblies.place(context)
        context.record.physical = f"{name}/{assembly}"
        context.record.attributes = {"address": status.address, "deployable": name, "name": assembly}

    async def delete(self, context: Context) -> None:
        """Remove the guest."""
        await assemblies.remove(context)

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """The guest's state, image, memory and cores; None when there is none any more."""
        wanted = self.assembly(context)
        stored, found = await drift.guest(context)
        return None if stored is None else {**found, **drift.other(stored, wanted.image, wanted.memory, wanted.cpus)}


class ResourceOfGuest(ResourceType):
    """A service in a guest of the stack, monitored from now on. What it needs must be in the guest already."""

    names = ("PCloud::Resource",)
    needs = frozenset({"guests", "access"})
    attributes = frozenset({"name"})
    schema: ClassVar[Schema] = {
        "assembly": text(required=True),
        "name": text(),
        **{
            key: value
            for keys, value in (
                (("template", "class", "provider", "type"), text(on_change=_UPDATE)),
                (("monitor", "timeouts", "configure"), anything(on_change=_UPDATE)),
                (("parameters", "escalation", "limits"), mapping(on_change=_UPDATE)),
                (("processes", "after"), listing(on_change=_UPDATE)),
            )
            for key in keys
        },
    }

    def document(self, properties: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Return the manifest of a deployable with this resource."""
        skipped = ("assembly", "name")
        description = {key: value for key, value in properties.items() if key not in skipped and value is not None}
        guest = {"image": "bookworm", "resources": {name: description}}
        return {"deployable": "stack", "assemblies": {"guest": guest}}

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """As the manifest's reader says."""
        return problems_of(platform, self.document(properties, "it"), "assemblies.guest.resources.it")

    def _resource(self, context: Context) -> Resource:
        name = context.properties.get("name") or re.sub(r"[^A-Za-z0-9_-]", "-", context.record.name)[:64]
        found = context.services.platform.read(self.document(context.properties, str(name)))
        # Without its template: the guest is there, and its image does not change for it.
        return msgspec.structs.replace(found.assemblies[0].resources[0], template="", attached=True)

    def _where(self, context: Context) -> tuple[str, str]:
        reference = str(context.properties["assembly"])
        found = context.services.find(reference)
        place = context.services.place_of(found) if found is not None else None
        if place is None:
            raise ResourceFailed(f"no stack has the guest {reference}")
        return place

    async def create(self, context: Context) -> None:
        """Add it to the guest and wait until it runs."""
        wanted, where = self._resource(context), self._where(context)
        record = context.record
        record.physical = f"{where[0]}/{where[1]}/{wanted.name}"
        record.attributes = {"name": wanted.name}
        # Not `deployable` and `assembly`: those say whose guest a record is.
        record.data["within"], record.data["name"] = list(where), wanted.name
        context.services.save(record)

        def edit(one: Assembly) -> dict[str, Any]:
            kept = [each for each in one.resources if each.name != wanted.name]
            return {"resources": (*kept, wanted)}

        await assemblies.change_at(context, where, edit)
        deadline = context.services.now() + assemblies.GONE_SECONDS

        async def runs() -> bool:
            status = await context.services.platform.status(where[0])
            if status is None or not assemblies.current_state(status):
                return False
            guests = [one for one in status.assemblies if one.name == where[1]]
            found = [each for one in guests for each in one.resources if each.name == wanted.name]
            if status.state is ResourceState.BLOCKED:
                raise ResourceFailed(status.reason)
            if found and found[0].state is ResourceState.UNRECOVERABLE:
                raise ResourceFailed(found[0].reason or f"{wanted.name} can not be started")
            return bool(found) and found[0].state is ResourceState.RUNNING

        await context.until(runs, deadline=deadline)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """The engine restarts it where that is needed."""
        await self.create(context)

    async def delete(self, context: Context) -> None:
        """Take it out of the guest."""
        where, name = context.record.data.get("within"), context.record.data.get("name")
        if not where or await assemblies.stored(context, (where[0], where[1])) is None:
            return
        await assemblies.change_at(
            context,
            (where[0], where[1]),
            lambda one: {"resources": tuple(each for each in one.resources if each.name != name)},
        )

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """Its state; None when its guest has it no more."""
        where, name = context.record.data.get("within") or ("", ""), context.record.data.get("name")
        stored = await assemblies.stored(context, (where[0], where[1]))
        if stored is None or name not in {one.name for one in stored.resources}:
            return None
        status = await context.services.platform.status(where[0])
        guests = [one for one in status.assemblies if one.name == where[1]] if status is not None else []
        state = next((each.state for one in guests for each in one.resources if each.name == name), None)
        if state is None or state is ResourceState.UNKNOWN:
            raise NotChecked(f"the state of {name} is not known now")
        return {} if state is ResourceState.RUNNING or context.stack.suspended else {"state": state.value}


class DeployableType(ResourceType):
    """A whole deployable beside the stack's own, in the manifest's words."""

    names = ("PCloud::Deployable",)
    needs = frozenset({"guests"})
    attributes = frozenset({"addresses", "name"})
    schema: ClassVar[Schema] = {"manifest": mapping(required=True, on_change=_UPDATE)}

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """As the manifest's reader says."""
        manifest = properties.get("manifest")
        return problems_of(platform, manifest, "", "manifest") if isinstance(manifest, Mapping) else []

    async def create(self, context: Context) -> None:
        """Make it and wait until all of it runs."""
        platform, record = context.services.platform, context.record
        wanted = platform.read(context.properties["manifest"])
        if record.data.get("name") != wanted.name:
            if await platform.definition(wanted.name) is not None:
                raise ResourceFailed(f"there is a deployable {wanted.name} already")
            record.data["name"] = record.physical = wanted.name
            context.services.save(record)
        await self._apply(context, wanted)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Only what differs is touched; its name stays."""
        wanted = context.services.platform.read(context.properties["manifest"])
        if wanted.name != context.record.physical:
            raise ResourceFailed(f"a deployable's name stays: it is {context.record.physical}")
        await self._apply(context, wanted)

    def deployable(self, record: ResourceRecord) -> str:
        """Itself."""
        return str(record.data.get("name") or "")

    async def _apply(self, context: Context, wanted: Deployable) -> None:
        platform = context.services.platform
        await platform.apply(wanted)
        names = {one.name for one in wanted.assemblies}

        async def runs() -> bool:
            status = await platform.status(wanted.name)
            if status is None or not assemblies.current_state(status):
                return False
            if status.state in LOST:
                raise ResourceFailed(status.reason or f"{wanted.name} can not be started")
            context.record.attributes = {
                "name": wanted.name,
                "addresses": {one.name: one.address for one in status.assemblies},
            }
            return status.state is ResourceState.RUNNING and {one.name for one in status.assemblies} == names

        await context.until(runs, deadline=context.services.now() + assemblies.START_SECONDS)

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """Its state, and its guests where they are not those of the manifest; None when there is none any more."""
        platform, wanted = context.services.platform, context.services.platform.read(context.properties["manifest"])
        stored, status = await platform.definition(wanted.name), await platform.status(wanted.name)
        if stored is None:
            return None
        if status is None or status.state is ResourceState.UNKNOWN:
            raise NotChecked(f"the state of {wanted.name} is not known now")
        well = status.state in (ResourceState.RUNNING, ResourceState.PAUSED) or context.stack.suspended
        names = [sorted(one.name for one in each.assemblies) for each in (wanted, stored)]
        return {
            **({} if well else {"state": status.state.value}),
            **({} if names[0] == names[1] else {"assemblies": names[1]}),
        }

    async def delete(self, context: Context) -> None:
        """Remove it, if it was this resource that made it."""
        if name := context.record.data.get("name"):
            await context.services.platform.delete(str(name))


TYPES: tuple[type[ResourceType], ...] = (AssemblyType, ResourceOfGuest, DeployableType)
