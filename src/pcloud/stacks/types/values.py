"""Types that only hold values: OS::Heat::TestResource, None, Value, RandomString, UpdateWaitConditionHandle's friends."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import string
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType

_UPDATE = OnChange.UPDATE


class TestResource(ResourceType):
    """Does nothing, waits or fails as told."""

    names = ("OS::Heat::TestResource",)
    attributes = frozenset({"output"})
    schema: ClassVar[Schema] = {
        "value": text(default="test_string", on_change=_UPDATE),
        "fail": boolean(default=False, on_change=_UPDATE),
        "update_replace": boolean(default=False, on_change=_UPDATE),
        "update_replace_value": text(on_change=OnChange.REPLACE),
        "wait_secs": anything(default=0, on_change=_UPDATE),
        "action_wait_secs": anything(on_change=_UPDATE),
        "attr_wait_secs": anything(default=0, on_change=_UPDATE, inert="attributes are known at once"),
        "client_name": text(on_change=_UPDATE, inert="there are no OpenStack clients behind it"),
        "entity_name": text(on_change=_UPDATE, inert="there are no OpenStack clients behind it"),
        "constraint_prop_secs": anything(on_change=_UPDATE, inert="properties are checked at once"),
    }

    async def _act(self, context: Context, action: str) -> None:
        actions = context.properties.get("action_wait_secs")
        seconds = float(context.properties.get("wait_secs") or 0)
        if isinstance(actions, dict) and actions.get(action) is not None:
            seconds = float(actions[action])
        if seconds > 0:
            await asyncio.sleep(seconds)
        if context.properties.get("fail") and action != "delete":
            raise ResourceFailed("Test Resource failed " + context.record.name)

    async def create(self, context: Context) -> None:
        """Wait, then fail or succeed."""
        record = context.record
        record.physical = context.physical_name()
        record.attributes = {"output": context.properties["value"]}
        await self._act(context, "create")

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Wait, then fail or succeed."""
        await self._act(context, "update")
        context.record.attributes = {"output": context.properties["value"]}

    async def delete(self, context: Context) -> None:
        """Wait."""
        await self._act(context, "delete")


class Nothing(ResourceType):
    """Takes any property and does nothing."""

    names = ("OS::Heat::None",)
    attributes = None

    async def create(self, context: Context) -> None:
        """Do nothing."""
        context.record.physical = context.physical_name()


class Value(ResourceType):
    """Holds one value."""

    names = ("OS::Heat::Value",)
    attributes = frozenset({"value"})
    schema: ClassVar[Schema] = {
        "value": anything(required=True, on_change=_UPDATE),
        "type": text(on_change=_UPDATE, allowed=("string", "number", "comma_delimited_list", "json", "boolean")),
    }

    async def create(self, context: Context) -> None:
        """Keep the value."""
        context.record.physical = context.physical_name()
        context.record.attributes = {"value": context.properties["value"]}

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Keep the new value."""
        context.record.attributes = {"value": context.properties["value"]}


_CLASSES = {
    "lettersdigits": string.ascii_letters + string.digits,
    "letters": string.ascii_letters,
    "lowercase": string.ascii_lowercase,
    "uppercase": string.ascii_uppercase,
    "digits": string.digits,
    "hexdigits": string.digits + "ABCDEF",
    "octdigits": string.octdigits,
}


class RandomString(ResourceType):
    """A random text, made once. It follows from a secret and the resource's id, so that a crash does not make another."""

    names = ("OS::Heat::RandomString",)
    attributes = frozenset({"value"})
    schema: ClassVar[Schema] = {
        "length": integer(default=32, minimum=1, maximum=512),
        "sequence": text(allowed=tuple(_CLASSES)),
        "character_classes": listing(
            fields={
                "class": text(default="lettersdigits", allowed=tuple(_CLASSES)),
                "min": integer(default=1, minimum=1, maximum=512),
            }
        ),
        "character_sequences": listing(
            fields={"sequence": text(required=True), "min": integer(default=1, minimum=1, maximum=512)}
        ),
        "salt": text(),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """The minimum counts must fit into the length."""
        length = properties.get("length", 32)
        wanted = sum(
            item.get("min", 1)
            for key in ("character_classes", "character_sequences")
            for item in properties.get(key) or []
            if isinstance(item, dict) and isinstance(item.get("min", 1), int)
        )
        if isinstance(length, int) and wanted > length:
            message = f"length {length} is less than the {wanted} characters that the classes need"
            return [PropertyProblem(code="BAD_PROPERTY", message=message, path=("length",))]
        return []

    async def create(self, context: Context) -> None:
        """Make the text."""
        given = context.properties
        groups = [(_CLASSES[item["class"]], item["min"]) for item in given.get("character_classes") or []]
        groups += [(item["sequence"], item["min"]) for item in given.get("character_sequences") or []]
        if not groups:
            groups = [(_CLASSES[given.get("sequence") or "lettersdigits"], 1)]
        stream = _Stream(context.services.make_key("", "", "random")[1], context.token + (given.get("salt") or ""))
        everything = "".join(group for group, _ in groups)
        letters = [group[stream.below(len(group))] for group, least in groups for _ in range(least)]
        letters += [everything[stream.below(len(everything))] for _ in range(given["length"] - len(letters))]
        for index in range(len(letters) - 1, 0, -1):
            other = stream.below(index + 1)
            letters[index], letters[other] = letters[other], letters[index]
        context.record.physical = context.physical_name()
        context.record.attributes = {"value": "".join(letters)}


class _Stream:
    """Random numbers that follow from a secret and a seed."""

    def __init__(self, secret: str, seed: str) -> None:
        self.secret = secret.encode()
        self.seed = seed.encode()
        self.counter = 0

    def below(self, limit: int) -> int:
        """Return a number from 0 to limit - 1; 128 bits make the bias immeasurable."""
        self.counter += 1
        digest = hmac.new(self.secret, self.seed + b"/" + str(self.counter).encode(), hashlib.sha256).digest()
        return int.from_bytes(digest[:16], "big") % limit


TYPES: tuple[type[ResourceType], ...] = (TestResource, Nothing, Value, RandomString)
