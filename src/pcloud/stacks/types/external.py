"""`external_id` of HOT: a resource that stands for a thing of another stack; it is looked at, never changed or deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.records import EXTERNAL, ResourceRecord
from pcloud.stacks.schema import OnChange, Schema, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services

ID = "external_id"


class External(ResourceType):
    """Stands for the resource of a physical id, of the type that the template names."""

    names = (EXTERNAL,)
    attributes: ClassVar[frozenset[str] | None] = None
    schema: ClassVar[Schema] = {ID: text(required=True, on_change=OnChange.UPDATE)}

    async def create(self, context: Context) -> None:
        """Find the thing."""
        record, wanted = context.record, context.properties[ID]
        found = _thing(record.type, wanted, context.services)
        if found is None:
            raise ResourceFailed(not_found(record.type, wanted))
        record.physical = found.physical

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """It stands for one thing as long as it is there."""
        if context.properties[ID] != old.get(ID):
            raise ResourceFailed(unchangeable(context.record.name, context.record.type))

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """Tell whether the thing is gone."""
        return {} if _thing(context.record.type, context.record.physical, context.services) is not None else None

    def reference(self, record: ResourceRecord, services: Services) -> Any:
        """What a reference to the thing itself gives."""
        found = _thing(record.type, record.physical, services)
        return services.reference_value(found) if found is not None else record.physical

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """The attribute of the thing itself."""
        found = _thing(record.type, record.physical, services)
        return services.resource_value(found, name, path) if found is not None else None


def _thing(type_name: str, physical: str, services: Services) -> ResourceRecord | None:
    found = services.find(physical)
    return found if found is not None and found.type == type_name else None


def not_found(type_name: str, physical: str) -> str:
    """Return Heat's sentence of a thing that is not there."""
    return f"Invalid external resource: Resource {physical} ({type_name}) can not be found."


def unchangeable(name: str, type_name: str) -> str:
    """Return Heat's sentence of another `external_id`."""
    return f"Update to property external_id of {name} ({type_name}) is not supported."


TYPES: tuple[type[ResourceType], ...] = (External,)
