"""Groups, and OS::Heat::ResourceGroup: a nested stack of members made from one definition."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from pcloud.stacks.beneath import Foreseen, without_unknown
from pcloud.stacks.functions.evaluation import unknown_in, walk
from pcloud.stacks.records import ResourceRecord, Source
from pcloud.stacks.schema import OnChange, Schema, anything, integer, listing, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services
from pcloud.stacks.types.nested import NestedType
from pcloud.stacks.types.registry import alias_of, type_made
from pcloud.stacks.types.rolling import Members, Roll, heat_roll, stage

_UPDATE = OnChange.UPDATE
MAX_MEMBERS = 1000
DEFINITION: Schema = {
    "type": text(required=True),
    "properties": anything(default={}),
    "metadata": anything(default={}),
    "update_policy": anything(),
    "depends_on": anything(),
    "deletion_policy": anything(),
}


class GroupType(NestedType):
    """Base of groups: members are the resources of a nested stack, named by index or by a stable name."""

    sizing: ClassVar[tuple[str, ...]] = ()
    """Properties that say which members there are; all, where it names none."""

    def members(self, context: Context) -> Members:
        """Return member name → resource definition."""
        raise NotImplementedError

    def source(self, context: Context) -> Source:
        """Return the nested template of all members."""
        return self.source_of(context, self.members(context))

    def source_beneath(self, context: Context, before: Source) -> Source:
        """The members are what properties, policies and scaling make them: files change what is beneath them."""
        return msgspec.structs.replace(
            before, files=dict(context.files), registry=dict(context.registry), defaults=dict(context.defaults)
        )

    def source_of(self, context: Context, members: Members) -> Source:
        """Return a nested template. Its values are resolved already, and must not be read as functions again."""
        body = {"heat_template_version": "2021-04-16", "resources": members}
        return Source(
            template=json.dumps(body),
            files=dict(context.files),
            registry=dict(context.registry),
            defaults=dict(context.defaults),
        )

    def definition(self, properties: Mapping[str, Any]) -> Any:
        """Return what a member is made from, as far as the properties say it; None when they do not, or there is none."""
        return None

    def foresee(
        self, type_name: str, properties: Mapping[str, Any], files: Mapping[str, str], registry: Mapping[str, Any]
    ) -> Foreseen | None:
        """One member stands for all."""
        member = self.definition(properties)
        if not isinstance(member, dict) or not isinstance(member.get("type"), str):
            return None
        alone = {key: part for key, part in plain(member).items() if key != "depends_on"}
        return _foreseen({"member": alone}, files, registry)

    def foresee_all(self, context: Context) -> Foreseen | None:
        """Every member, where their number and type are known."""
        given = context.properties
        if unknown_in({key: given.get(key) for key in self.sizing or given}) is not None:
            return None
        try:
            members = self.members(context)
        except ResourceFailed:  # what they are made like is not there yet
            return None
        if not all(isinstance(member.get("type"), str) for member in members.values()):
            return None
        return _foreseen(members, context.files, context.registry)

    def current(self, record: ResourceRecord, services: Services) -> Members:
        """Return the definitions that the members have now."""
        child = services.child(record.physical)
        if child is None or child.source is None:
            return {}
        members: Members = json.loads(child.source.template)["resources"]
        return members

    def stale(self, context: Context) -> frozenset[str]:
        """Return the members that a file or an alias made other than they are, whatever their definitions say."""
        services = context.services
        child = services.child(context.record.physical)
        found = set()
        for name in self.current(context.record, services):
            record = services.child_resource(child.id, name) if child is not None else None
            if record is None or child is None:
                continue
            kind, _ = type_made(record.type, record.made_as, context.registry, context.files)
            there = Context(
                services,
                child,
                record,
                dict(record.properties),
                files=context.files,
                registry=context.registry,
                defaults=context.defaults,
            )
            other = record.made_as not in ("", alias_of(record.type, context.registry))
            if other or (kind is not None and kind.beneath(there)):
                found.add(name)
        return frozenset(found)

    def roll(self, context: Context) -> Roll | None:
        """Return how members are updated; None for all at once."""
        return None

    def maximum(self, context: Context) -> int:
        """Return how many members may exist."""
        return MAX_MEMBERS

    async def create(self, context: Context) -> None:
        """Make the members."""
        async with context.services.lock(context.record.id):
            await super().create(context)
            await self.changed(context)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Change the members, some at a time where a policy says so."""
        async with context.services.lock(context.record.id):
            await self.apply(context)

    async def changed(self, context: Context) -> None:
        """Tell others that the members changed."""

    async def apply(self, context: Context) -> None:
        """Make the members as they shall be. After a crash it goes on with the batch that it was at."""
        roll, services, record = self.roll(context), context.services, context.record
        followed: set[str] = set()
        while roll is not None:
            # A stage that a crash interrupted is finished first: then what is there is what the child's source says.
            child = services.child(record.physical)
            if child is not None and child.busy:
                await services.wait(child)
            stale = self.stale(context) - followed
            current, wanted = self.current(record, services), self.members(context)
            members, batch = stage(current, wanted, roll, self.maximum(context), stale)
            if not batch:
                break
            followed.update(batch)
            begun = record.data.get("roll") or {}
            if begun.get("batch") != batch:
                begun = {"batch": batch, "signals": len(services.signals(record.id)), "since": services.now()}
                record.data["roll"] = begun
                services.save(record)
            services.note(record, f"rolling update: {', '.join(batch)}")
            only = tuple(batch) if stale else None
            await services.child_apply(context, self.source_of(context, members), only=only)
            await self.changed(context)
            await _pause(context, roll, begun)
        record.data.pop("roll", None)
        await services.child_apply(context, self.source(context))
        await self.changed(context)

    def names_of(self, record: ResourceRecord, services: Services) -> list[str]:
        """Return the members' names in order."""
        child = services.child(record.physical)
        if child is None or child.source is None:
            return []
        names = list(json.loads(child.source.template)["resources"])
        return sorted(names, key=lambda name: (len(name), name))

    def value(self, record: ResourceRecord, name: str, attribute: str, path: list[Any], services: Services) -> Any:
        """Return an attribute of one member; its id for `refs`."""
        child = services.child(record.physical)
        member = services.child_resource(child.id, name) if child is not None else None
        if member is None:
            return None
        if not attribute:
            return services.reference_value(member)
        return services.resource_value(member, attribute, path)

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """`refs`, `refs_map`, `attributes`, `outputs`, `outputs_list`, `resource.N…`, or that attribute of every member."""
        names = self.names_of(record, services)
        if name.startswith("resource."):
            parts = name.split(".")
            rest = [*parts[2:], *path]
            return self.value(record, parts[1], str(rest[0]) if rest else "", rest[1:], services)
        if name == "refs":
            return walk([self.value(record, item, "", [], services) for item in names], path)
        if name == "refs_map":
            return walk({item: self.value(record, item, "", [], services) for item in names}, path)
        if name in ("attributes", "outputs") and path:
            return {item: self.value(record, item, str(path[0]), path[1:], services) for item in names}
        if name == "outputs_list" and path:
            return [self.value(record, item, str(path[0]), path[1:], services) for item in names]
        if name in ("current_size", "size"):
            return len(names)
        if name == "show":
            return {"refs": [self.value(record, item, "", [], services) for item in names]}
        return [self.value(record, item, name, path, services) for item in names]


def _foreseen(members: Members, files: Mapping[str, str], registry: Mapping[str, Any]) -> Foreseen:
    names: list[str] = []
    resources = without_unknown(members, names)
    template = {
        "heat_template_version": "2021-04-16",
        "parameters": {name: {"type": "json"} for name in names},
        "resources": resources,
    }
    source = Source(template=json.dumps(template), files=dict(files), registry=dict(registry))
    return Foreseen(source=source, unknown=frozenset(names), label="member")


async def _pause(context: Context, roll: Roll, begun: Mapping[str, Any]) -> None:
    services, record = context.services, context.record
    if not roll.signals:
        await asyncio.sleep(roll.pause)
        return
    wanted, base = len(begun["batch"]), int(begun["signals"])

    def good(signals: list[dict[str, Any]]) -> int:
        return sum(str(item.get("status", "")).upper() == "SUCCESS" for item in signals[base:])

    await services.wait_signals(record.id, lambda all_: len(all_) >= base + wanted, services.now() + roll.pause)
    got = good(services.signals(record.id))
    if got * 100 < wanted * roll.percent:
        raise ResourceFailed(
            f"Received {got} SUCCESS signal(s) out of {wanted}. Unable to satisfy {roll.percent}% "
            "MinSuccessfulInstancesPercent requirement"
        )


def _filled(node: Any, variable: str, index: str) -> Any:
    """Put a member's index in place of the index variable."""
    if isinstance(node, str):
        return node.replace(variable, index)
    if isinstance(node, list):
        return [_filled(item, variable, index) for item in node]
    if isinstance(node, dict):
        return {_filled(key, variable, index): _filled(value, variable, index) for key, value in node.items()}
    return node


class ResourceGroup(GroupType):
    """A number of like resources."""

    names = ("OS::Heat::ResourceGroup",)
    sizing = ("count", "index_var", "removal_policies")
    schema: ClassVar[Schema] = {
        "count": integer(default=1, minimum=0, maximum=MAX_MEMBERS, on_change=_UPDATE),
        "count_expected": integer(on_change=_UPDATE, inert="the group is always resolved with its real count"),
        "index_var": text(default="%index%", on_change=_UPDATE),
        "resource_def": mapping(required=True, on_change=_UPDATE, fields=DEFINITION),
        "removal_policies": listing(on_change=_UPDATE, fields={"resource_list": anything(default=[])}),
        "removal_policies_mode": text(default="append", allowed=("append", "update"), on_change=_UPDATE),
    }

    def definition(self, properties: Mapping[str, Any]) -> Any:
        """`resource_def` for the first index, unless there shall be none."""
        index = properties.get("index_var")
        if properties.get("count") == 0 or not isinstance(index, str):
            return None
        return _filled(properties.get("resource_def"), index, "0")

    def roll(self, context: Context) -> Roll | None:
        """`update_policy: {rolling_update: …}`."""
        policy = context.update_policy
        return heat_roll(policy.get("rolling_update")) if isinstance(policy, dict) else None

    async def create(self, context: Context) -> None:
        """Make the members, in batches where `update_policy: {batch_create: …}` says so."""
        policy = context.update_policy
        batches = heat_roll(policy.get("batch_create")) if isinstance(policy, dict) else None
        if batches is not None:
            members = list(self.members(context).items())
            for count in range(batches.batch, len(members), batches.batch):
                if len(self.current(context.record, context.services)) < count:
                    await context.services.child_apply(context, self.source_of(context, dict(members[:count])))
                    await asyncio.sleep(batches.pause)
        await super().create(context)

    def members(self, context: Context) -> Members:
        """Indexes from 0, without those that the removal policies name."""
        given = context.properties
        removed = {
            str(item) for policy in given.get("removal_policies") or [] for item in policy.get("resource_list") or []
        }
        result: Members = {}
        index = 0
        while len(result) < given["count"]:
            name = str(index)
            index += 1
            if name in removed:
                continue
            result[name] = _filled(plain(given["resource_def"]), given["index_var"], name)
        return result


def plain(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return a member's definition without the parts that say nothing."""
    return {key: value for key, value in definition.items() if value not in (None, {}) or key == "type"}


TYPES: tuple[type[ResourceType], ...] = (ResourceGroup,)
