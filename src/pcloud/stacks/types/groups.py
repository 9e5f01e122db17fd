"""OS::Heat::ResourceGroup, AutoScalingGroup and ScalingPolicy: a nested stack of members made from one definition."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.functions.evaluation import walk
from pcloud.stacks.records import ResourceRecord, Source
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, integer, listing, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services
from pcloud.stacks.types.nested import NestedType

_UPDATE = OnChange.UPDATE
MAX_MEMBERS = 1000
_DEFINITION: Schema = {
    "type": text(required=True),
    "properties": anything(default={}),
    "metadata": anything(default={}),
    "update_policy": anything(),
    "depends_on": anything(),
    "deletion_policy": anything(),
}


class GroupType(NestedType):
    """Base of groups: members are the resources of a nested stack, named by index or by a stable name."""

    def members(self, context: Context) -> dict[str, dict[str, Any]]:
        """Return member name → resource definition."""
        raise NotImplementedError

    def source(self, context: Context) -> Source:
        """Return the nested template. Its values are resolved already, and must not be read as functions again."""
        body = {"heat_template_version": "2021-04-16", "resources": self.members(context)}
        return Source(template=json.dumps(body), files=dict(context.files), registry=dict(context.registry))

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
    schema: ClassVar[Schema] = {
        "count": integer(default=1, minimum=0, maximum=MAX_MEMBERS, on_change=_UPDATE),
        "count_expected": integer(on_change=_UPDATE, inert="the group is always resolved with its real count"),
        "index_var": text(default="%index%", on_change=_UPDATE),
        "resource_def": mapping(required=True, on_change=_UPDATE, fields=_DEFINITION),
        "removal_policies": listing(on_change=_UPDATE, fields={"resource_list": anything(default=[])}),
        "removal_policies_mode": text(default="append", allowed=("append", "update"), on_change=_UPDATE),
    }

    def members(self, context: Context) -> dict[str, dict[str, Any]]:
        """Indexes from 0, without those that the removal policies name."""
        given = context.properties
        removed = {
            str(item) for policy in given.get("removal_policies") or [] for item in policy.get("resource_list") or []
        }
        result: dict[str, dict[str, Any]] = {}
        index = 0
        while len(result) < given["count"]:
            name = str(index)
            index += 1
            if name in removed:
                continue
            result[name] = _filled(_plain(given["resource_def"]), given["index_var"], name)
        return result


def _plain(definition: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in definition.items() if value not in (None, {}) or key == "type"}


class AutoScalingGroup(GroupType):
    """A number of like resources that scaling policies change."""

    names = ("OS::Heat::AutoScalingGroup",)
    schema: ClassVar[Schema] = {
        "resource": mapping(required=True, on_change=_UPDATE, fields=_DEFINITION),
        "max_size": integer(required=True, minimum=0, maximum=MAX_MEMBERS, on_change=_UPDATE),
        "min_size": integer(required=True, minimum=0, on_change=_UPDATE),
        "desired_capacity": integer(minimum=0, on_change=_UPDATE),
        "cooldown": integer(on_change=_UPDATE),
        "rolling_updates": mapping(
            on_change=_UPDATE, inert="members are updated along the graph, in place where they can be"
        ),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """The sizes must fit each other."""
        low, high, wanted = (properties.get(key) for key in ("min_size", "max_size", "desired_capacity"))
        found = []
        if isinstance(low, int) and isinstance(high, int) and low > high:
            found.append(
                PropertyProblem(code="BAD_PROPERTY", message="min_size is more than max_size", path=("min_size",))
            )
        if isinstance(wanted, int) and isinstance(low, int) and isinstance(high, int) and not low <= wanted <= high:
            message = "desired_capacity is not between min_size and max_size"
            found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=("desired_capacity",)))
        return found

    def size(self, context: Context) -> int:
        """Return how many there shall be now: what scaling set, else the desired capacity, within the limits."""
        given = context.properties
        wanted = context.record.data.get("size")
        if wanted is None:
            wanted = given.get("desired_capacity") if given.get("desired_capacity") is not None else given["min_size"]
        return int(max(given["min_size"], min(given["max_size"], wanted)))

    def members(self, context: Context) -> dict[str, dict[str, Any]]:
        """`member0` and on."""
        definition = _plain(context.properties["resource"])
        return {f"member{index}": definition for index in range(self.size(context))}

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """A new desired capacity overrides what scaling set."""
        if "desired_capacity" in changed:
            context.record.data.pop("size", None)
        await super().update(context, old, changed)

    async def scale(self, context: Context, kind: str, amount: float, minimum_step: int) -> int:
        """Change the size by a policy; returns the new size."""
        now = self.size(context)
        if kind in ("exact_capacity", "ExactCapacity"):
            wanted = int(amount)
        elif kind in ("percent_change_in_capacity", "PercentChangeInCapacity"):
            step = now * amount / 100
            whole = int(step) or (1 if step > 0 else -1 if step < 0 else 0)
            if abs(whole) < minimum_step:
                whole = minimum_step if step > 0 else -minimum_step
            wanted = now + whole
        else:
            wanted = now + int(amount)
        context.record.data["size"] = wanted
        context.record.data["size"] = self.size(context)
        context.services.save(context.record)
        if self.size(context) != now:
            await context.services.child_apply(context, self.source(context))
        return self.size(context)


class ScalingPolicy(ResourceType):
    """Changes the size of a group when it is signalled, at most once in its cool-down."""

    names = ("OS::Heat::ScalingPolicy",)
    attributes = frozenset({"alarm_url", "signal_url"})
    schema: ClassVar[Schema] = {
        "auto_scaling_group_id": text(required=True),
        "scaling_adjustment": anything(required=True, on_change=_UPDATE),
        "adjustment_type": text(
            required=True,
            on_change=_UPDATE,
            allowed=("change_in_capacity", "exact_capacity", "percent_change_in_capacity"),
        ),
        "cooldown": integer(default=0, minimum=0, on_change=_UPDATE),
        "min_adjustment_step": integer(default=0, minimum=0, on_change=_UPDATE),
    }

    async def create(self, context: Context) -> None:
        """Make the URL."""
        context.record.physical = context.token
        url = context.services.signed_url(context.record, "signal")
        context.record.attributes = {"alarm_url": url, "signal_url": url}

    async def signal(self, context: Context, signal: Mapping[str, Any]) -> None:
        """Scale, unless it cools down."""
        details = signal.get("details") or {}
        if str(details.get("current", details.get("state", "alarm"))).lower() not in ("alarm", "1"):
            return
        now = context.services.now()
        if now < context.record.data.get("until", 0.0):
            return
        group = context.services.find(str(context.properties["auto_scaling_group_id"]))
        if group is None:
            raise ResourceFailed(f"there is no group {context.properties['auto_scaling_group_id']}")
        context.record.data["until"] = now + context.properties["cooldown"]
        context.services.save(context.record)
        await context.services.scale(
            group,
            context.properties["adjustment_type"],
            float(context.properties["scaling_adjustment"]),
            int(context.properties["min_adjustment_step"]),
        )


TYPES: tuple[type[ResourceType], ...] = (ResourceGroup, AutoScalingGroup, ScalingPolicy)
