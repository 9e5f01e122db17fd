"""Scaling groups whose members are only noted, and what such a group consists of."""

from __future__ import annotations

from typing import ClassVar

from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import ResourceRecord, StackRecord
from pcloud.stacks.schema import OnChange, anything
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType


class NotedInstance(ResourceType):
    """Stands for a guest: groups make members of this type, by the name that they use for instances."""

    names = ("AWS::EC2::Instance",)
    attributes = None
    schema: ClassVar = {
        key: anything(on_change=OnChange.UPDATE if key == "Tags" else OnChange.REPLACE)
        for key in ("ImageId", "InstanceType", "KeyName", "UserData", "SecurityGroups", "Tags")
    }

    async def create(self, context: Context) -> None:
        if context.properties.get("ImageId") == "broken":
            raise ResourceFailed("there is no image broken")
        context.record.physical = f"i-{context.short}"
        context.record.attributes = {"PublicIp": f"192.0.2.{int(context.record.name[6:] or 0) + 1}"}

    async def delete(self, context: Context) -> None:
        pass


def members(manager: StackManager, stack: StackRecord) -> dict[str, ResourceRecord]:
    """What the stack's `Group` consists of, by name."""
    child = manager.child(manager.current(stack)["Group"].physical)
    assert child is not None
    return dict(manager.current(child))
