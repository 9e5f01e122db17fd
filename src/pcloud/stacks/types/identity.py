"""AWS::IAM::User and AccessKey: a key of a stack may read that stack's metadata and signal it, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.schema import OnChange, Schema, anything, listing, text
from pcloud.stacks.types.base import Context, ResourceType

_POLICY = "a stack's keys may only read its metadata and signal it, whatever a policy says"


class User(ResourceType):
    """A name that keys belong to."""

    names = ("AWS::IAM::User",)
    attributes = frozenset({"Arn"})
    schema: ClassVar[Schema] = {
        "Path": text(on_change=OnChange.NOTHING, inert=_POLICY),
        "Groups": listing(on_change=OnChange.NOTHING, inert=_POLICY),
        "LoginProfile": anything(on_change=OnChange.NOTHING, inert="there is no console to log in to", secret=True),
        "Policies": listing(on_change=OnChange.NOTHING, inert=_POLICY),
        "UserName": text(),
    }

    async def create(self, context: Context) -> None:
        """Take the name."""
        name = context.properties.get("UserName") or context.physical_name()
        context.record.physical = name
        context.record.attributes = {"Arn": f"arn:aws:iam::000000000000:user/{name}"}


class AccessKeyType(ResourceType):
    """A key pair for signed requests."""

    names = ("AWS::IAM::AccessKey",)
    attributes = frozenset({"SecretAccessKey", "UserName"})
    schema: ClassVar[Schema] = {
        "UserName": text(required=True),
        "Serial": anything(),
        "Status": text(on_change=OnChange.UPDATE, allowed=("Active", "Inactive"), default="Active"),
    }

    async def create(self, context: Context) -> None:
        """Make the key."""
        user = context.properties["UserName"]
        key, secret = context.services.make_key(user, context.stack.id, context.token)
        context.record.physical = key
        context.record.attributes = {"SecretAccessKey": secret, "UserName": user}
        self._set(context)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Let the key sign requests, or no longer."""
        self._set(context)

    @staticmethod
    def _set(context: Context) -> None:
        context.services.enable_key(context.record.physical, enabled=context.properties["Status"] == "Active")

    async def delete(self, context: Context) -> None:
        """Remove the key."""
        if context.record.physical:
            context.services.drop_key(context.record.physical)


class AccessPolicy(ResourceType):
    """Which resources a user may describe."""

    names = ("OS::Heat::AccessPolicy",)
    schema: ClassVar[Schema] = {"AllowedResources": listing(required=True, on_change=OnChange.NOTHING, inert=_POLICY)}

    async def create(self, context: Context) -> None:
        """Take the name."""
        context.record.physical = context.physical_name()


TYPES: tuple[type[ResourceType], ...] = (User, AccessKeyType, AccessPolicy)
