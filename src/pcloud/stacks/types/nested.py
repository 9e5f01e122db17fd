"""Stacks within stacks: AWS::CloudFormation::Stack, OS::Heat::Stack, and template files used as types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.beneath import Foreseen, alike, parted
from pcloud.stacks.functions.evaluation import FunctionError, unknown_in, walk
from pcloud.stacks.records import ResourceRecord, Source
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, integer, listing, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services
from pcloud.stacks.types.registry import alias_of

_UPDATE = OnChange.UPDATE


class NestedType(ResourceType):
    """Base of types whose physical thing is a stack."""

    nested = True
    attributes: ClassVar[frozenset[str] | None] = None

    def source(self, context: Context) -> Source:
        """Return what the nested stack is made from."""
        raise NotImplementedError

    def beneath(self, context: Context) -> bool:
        """Whether template, registry or a file that counts is other than what the nested stack was made from."""
        child = context.services.child(context.record.physical)
        if child is None or child.source is None or unknown_in(context.properties) is not None:
            return False
        try:
            return not alike(child.source, self.source_beneath(context, child.source))
        except ResourceFailed:
            return True  # there is none to make it from: whoever makes it says why

    def source_beneath(self, context: Context, before: Source) -> Source:
        """Return what the nested stack is to be made from, as far as files change it."""
        return self.source(context)

    async def create(self, context: Context) -> None:
        """Make the nested stack."""
        await context.services.child_apply(context, self.source(context), timeout=self.timeout(context))

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Update the nested stack."""
        await context.services.child_apply(context, self.source(context))

    async def delete(self, context: Context) -> None:
        """Delete the nested stack."""
        await context.services.child_delete(context)

    def foresee(
        self, type_name: str, properties: Mapping[str, Any], files: Mapping[str, str], registry: Mapping[str, Any]
    ) -> Foreseen | None:
        """Return what the nested stack will be made from, as far as it is known now; None when that is too little to be
        judged. ResourceFailed says why it can not be made at all."""
        return None

    def foresee_all(self, context: Context) -> Foreseen | None:
        """Return what all of the nested stack will be made from, as far as it is known now; None when that is too little."""
        return self.foresee(context.record.type, context.properties, context.files, context.registry)

    def timeout(self, context: Context) -> int:
        """Return the minutes it may take; 0 is no limit of its own."""
        return 0

    def output(self, record: ResourceRecord, name: str, services: Services) -> Any:
        """Return an output of the nested stack; None when it has none."""
        child = services.child(record.physical)
        entry = child.outputs.get(name) if child is not None else None
        return entry["value"] if entry is not None else None


def template_text(value: Any) -> str:
    """Return a template that may be text or a map as text."""
    return value if isinstance(value, str) else json.dumps(value)


class CloudFormationStack(NestedType):
    """A nested CloudFormation stack. Its template is a file sent along, or read from the object store with the request."""

    names = ("AWS::CloudFormation::Stack",)
    schema: ClassVar[Schema] = {
        "TemplateURL": text(on_change=_UPDATE),
        "TemplateBody": anything(on_change=_UPDATE),
        "Parameters": mapping(on_change=_UPDATE),
        "TimeoutInMinutes": integer(on_change=OnChange.NOTHING, minimum=1),
        "NotificationARNs": listing(on_change=OnChange.NOTHING, inert="there is no notification service"),
        "Tags": listing(on_change=_UPDATE, fields={"Key": text(required=True), "Value": text(required=True)}),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """One of TemplateURL and TemplateBody is needed."""
        if properties.get("TemplateURL") is None and properties.get("TemplateBody") is None:
            return [PropertyProblem(code="MISSING_PROPERTY", message="TemplateURL is needed", path=("TemplateURL",))]
        return []

    def source(self, context: Context) -> Source:
        """Return the file's text with the parameters given."""
        given = context.properties
        return Source(
            template=_body(given, context.files),
            parameters=_joined(given.get("Parameters") or {}),
            files=dict(context.files),
            registry=dict(context.registry),
            defaults=dict(context.defaults),
            tags={item["Key"]: item["Value"] for item in given.get("Tags") or []},
        )

    def foresee(
        self, type_name: str, properties: Mapping[str, Any], files: Mapping[str, str], registry: Mapping[str, Any]
    ) -> Foreseen | None:
        """The template is known unless a function that is not gives it."""
        key = "TemplateURL" if properties.get("TemplateBody") is None else "TemplateBody"
        if properties.get(key) is None or unknown_in(properties[key]) is not None:
            return None
        known, unknown = parted(properties.get("Parameters"))
        source = Source(
            template=_body(properties, files), parameters=_joined(known), files=dict(files), registry=dict(registry)
        )
        return Foreseen(source=source, unknown=unknown, label=str(properties[key]) if key == "TemplateURL" else key)

    def timeout(self, context: Context) -> int:
        """Return TimeoutInMinutes."""
        return int(context.properties.get("TimeoutInMinutes") or 0)

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """Outputs.NAME."""
        if name.startswith("Outputs."):
            return walk(self.output(record, name[8:], services), path)
        return super().attribute(record, name, path, services)

    def known_attribute(self, name: str) -> None:
        """Only outputs."""
        if name and not name.startswith("Outputs."):
            raise FunctionError(f"a nested stack has no attribute '{name}'", "UNKNOWN_ATTRIBUTE", "write Outputs.NAME")


def _body(given: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return the template that the properties name; ResourceFailed when it was not sent."""
    body = given.get("TemplateBody")
    if body is None:
        url = given["TemplateURL"]
        body = files.get(url) or files.get(url.rsplit("/", 1)[-1])
        if body is None:
            raise ResourceFailed(
                f"the template {url} is not among the files sent with the stack, nor in the configured object store"
            )
    return template_text(body)


def _joined(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as CloudFormation hands them on: lists as text."""
    return {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in parameters.items()}


class HeatStack(NestedType):
    """A nested Heat stack from a template's text."""

    names = ("OS::Heat::Stack",)
    schema: ClassVar[Schema] = {
        "context": mapping(refused="there are no other regions or clouds behind this API"),
        "template": anything(required=True, on_change=_UPDATE),
        "parameters": mapping(on_change=_UPDATE),
        "timeout": integer(on_change=OnChange.NOTHING),
    }

    def source(self, context: Context) -> Source:
        """Return the template with its parameters."""
        given = context.properties
        return Source(
            template=template_text(given["template"]),
            parameters=given.get("parameters") or {},
            files=dict(context.files),
            registry=dict(context.registry),
            defaults=dict(context.defaults),
        )

    def foresee(
        self, type_name: str, properties: Mapping[str, Any], files: Mapping[str, str], registry: Mapping[str, Any]
    ) -> Foreseen | None:
        """The template is known unless a function that is not gives it."""
        template = properties.get("template")
        if template is None or unknown_in(template) is not None:
            return None
        known, unknown = parted(properties.get("parameters"))
        source = Source(template=template_text(template), parameters=known, files=dict(files), registry=dict(registry))
        return Foreseen(source=source, unknown=unknown, label="template")

    def timeout(self, context: Context) -> int:
        """Return the time-out in minutes."""
        return int(context.properties.get("timeout") or 0)

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """`outputs` (a map), `stack_name`, or a single output."""
        child = services.child(record.physical)
        if child is None:
            return None
        if name == "stack_name":
            return child.name
        if name in ("outputs", "show"):
            return walk({key: entry["value"] for key, entry in child.outputs.items()}, path)
        return walk(self.output(record, name, services), path)


class TemplateResource(NestedType):
    """A template file used as a type: its parameters are the properties, its outputs the attributes."""

    names = ("pcloud:template",)

    def source(self, context: Context) -> Source:
        """Return the file with the properties as parameters."""
        name = alias_of(context.record.type, context.registry)
        if name not in context.files:
            raise ResourceFailed(f"the template file '{name}' was not sent with the template")
        return Source(
            template=context.files[name],
            parameters=dict(context.properties),
            files=dict(context.files),
            registry=dict(context.registry),
            defaults=dict(context.defaults),
        )

    def foresee(
        self, type_name: str, properties: Mapping[str, Any], files: Mapping[str, str], registry: Mapping[str, Any]
    ) -> Foreseen | None:
        """The file is known; some of its parameters may not be."""
        name = alias_of(type_name, registry)
        known, unknown = parted(properties)
        source = Source(template=files[name], parameters=known, files=dict(files), registry=dict(registry))
        return Foreseen(source=source, unknown=unknown, label=name)

    def reference(self, record: ResourceRecord, services: Services) -> Any:
        """`OS::stack_id` of the outputs when the template names one, else the stack's id."""
        own = self.output(record, "OS::stack_id", services)
        return own if own is not None else record.physical

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """An output, or `resource.NAME[.ATTRIBUTE]` of one of its resources."""
        if name.startswith("resource."):
            parts = name.split(".")
            child = services.child(record.physical)
            inner = services.child_resource(child.id, parts[1]) if child is not None else None
            if inner is None:
                return None
            if len(parts) == 2 and not path:
                return inner.physical
            names = [*parts[2:], *path]
            return services.resource_value(inner, str(names[0]), names[1:])
        if name == "show":
            child = services.child(record.physical)
            return {key: entry["value"] for key, entry in child.outputs.items()} if child is not None else {}
        return walk(self.output(record, name, services), path)


TYPES: tuple[type[ResourceType], ...] = (CloudFormationStack, HeatStack, TemplateResource)
