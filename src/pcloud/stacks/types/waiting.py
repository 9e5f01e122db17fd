"""Wait conditions and their handles, of both languages: a stack waits until something in a guest says that it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, integer, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services

_UPDATE = OnChange.UPDATE


def without_queue(properties: Mapping[str, Any]) -> list[PropertyProblem]:
    """Return the refusal of a signal through OpenStack's message queue, if that is asked for."""
    if properties.get("signal_transport") != "ZAQAR_SIGNAL":
        return []
    message = "ZAQAR_SIGNAL is refused: there is no message queue"
    return [PropertyProblem(code="REFUSED", message=message, path=("signal_transport",))]


def newest(signals: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the newest signal of each id, in order of first arrival."""
    result: dict[str, dict[str, Any]] = {}
    for number, signal in enumerate(signals, 1):
        result[str(signal.get("id") or number)] = signal
    return result


def refused(signals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the signals that report a failure."""
    return [signal for signal in newest(signals).values() if str(signal.get("status", "")).upper() not in ("SUCCESS",)]


class Handle(ResourceType):
    """A URL that takes signals."""

    names = ("AWS::CloudFormation::WaitConditionHandle", "OS::Heat::UpdateWaitConditionHandle")
    attributes = frozenset({"signals"})

    async def create(self, context: Context) -> None:
        """Make the URL."""
        context.record.physical = context.services.signed_url(context.record, "waitcondition")


class HeatHandle(ResourceType):
    """A handle whose attributes hold what a guest needs to signal."""

    names = ("OS::Heat::WaitConditionHandle",)
    attributes = frozenset({"token", "endpoint", "curl_cli", "signal"})
    schema: ClassVar[Schema] = {
        "signal_transport": text(
            default="TOKEN_SIGNAL",
            allowed=("CFN_SIGNAL", "TEMP_URL_SIGNAL", "HEAT_SIGNAL", "TOKEN_SIGNAL", "ZAQAR_SIGNAL"),
        )
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """There is no message queue to signal through."""
        return without_queue(properties)

    async def create(self, context: Context) -> None:
        """Make the URL and the command line for it."""
        url = context.services.signed_url(context.record, "signal")
        token = context.token
        context.record.physical = token
        headers = f"-H 'X-Auth-Token: {token}' -H 'Content-Type: application/json' -H 'Accept: application/json'"
        curl = f"curl -i -X POST {headers} '{url}'"
        context.record.attributes = {
            "token": token,
            "endpoint": url,
            "curl_cli": curl,
            "signal": json.dumps({"alarm_url": url}),
        }


def _handle(services: Services, reference: str, stack: str) -> ResourceRecord | None:
    return services.find(reference)


class Condition(ResourceType):
    """Waits for signals on a handle."""

    names = ("AWS::CloudFormation::WaitCondition",)
    attributes = frozenset({"Data", "data"})
    schema: ClassVar[Schema] = {
        "Handle": text(),
        "Timeout": integer(minimum=1, maximum=43200, on_change=_UPDATE),
        "Count": integer(default=1, minimum=0, maximum=10000, on_change=_UPDATE),
    }

    async def create(self, context: Context) -> None:
        """Wait."""
        context.record.physical = context.physical_name()
        await self._wait(context)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Wait again, for what the new count asks for."""
        context.record.data.pop("began", None)
        await self._wait(context)

    async def _wait(self, context: Context) -> None:
        given = {key.lower(): value for key, value in context.properties.items()}
        reference = given.get("handle")
        handle = _handle(context.services, str(reference), context.stack.id) if reference else context.record
        if handle is None:
            raise ResourceFailed(f"there is no handle {reference}")
        began = context.record.data.setdefault("began", context.services.now())
        context.services.save(context.record)
        count = int(given.get("count", 1))

        def enough(signals: list[dict[str, Any]]) -> bool:
            return bool(refused(signals)) or len(newest(signals)) >= count

        in_time = await context.services.wait_signals(handle.id, enough, began + float(given.get("timeout", 300)))
        signals = context.services.signals(handle.id)
        bad = refused(signals)
        if bad:
            raise ResourceFailed(f"WaitCondition received failed message: '{bad[0].get('reason', '')}'")
        data = {key: signal.get("data", "") for key, signal in newest(signals).items()}
        context.record.attributes = {"Data": json.dumps(data), "data": json.dumps(data)}
        if not in_time:
            got = f"{len(newest(signals))} of {count}"
            raise ResourceFailed(f"WaitCondition timed out. Received {got} conditions when expecting {count}")

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """The data of the signals by id, as JSON text."""
        return super().attribute(record, name, path, services)


class HeatCondition(Condition):
    """The same with Heat's names."""

    names = ("OS::Heat::WaitCondition",)
    schema: ClassVar[Schema] = {
        "handle": text(required=True),
        "timeout": integer(required=True, minimum=1, maximum=43200, on_change=_UPDATE),
        "count": integer(default=1, minimum=1, on_change=_UPDATE),
    }


TYPES: tuple[type[ResourceType], ...] = (Handle, HeatHandle, Condition, HeatCondition)
