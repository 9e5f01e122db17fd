"""What a resource type is: a schema and a few coroutines. A type is one small class; `registry` finds it by name.

Every coroutine may be called again after a crash with the same context and must then finish what it began: names of things
made follow from `Context.token`, which stays the same. `delete` is called for things that may never have been made.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from pcloud.model.errors import PcloudError
from pcloud.stacks.functions.evaluation import FunctionError, Unknown, walk
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord, Source, StackRecord
from pcloud.stacks.schema import PropertyProblem, Schema


class ResourceFailed(Exception):
    """A resource could not be made, changed or deleted; the sentence goes into its events."""


class Services(Protocol):
    """What types may ask of the engine."""

    platform: Platform
    region: str
    metadata_url: str
    """Where guests reach the CloudFormation endpoint, such as `http://192.0.2.1:8000`."""

    def now(self) -> float:
        """Return wall-clock time."""
        ...

    def signals(self, record: str) -> list[dict[str, Any]]:
        """Return the signals that a resource got, oldest first."""
        ...

    async def wait_signals(self, record: str, enough: Callable[[list[dict[str, Any]]], bool], deadline: float) -> bool:
        """Return True when the signals are enough, False at the deadline (wall-clock)."""
        ...

    async def child_apply(
        self, parent: Context, source: Source, *, timeout: int = 0, only: tuple[str, ...] | None = None
    ) -> StackRecord:
        """Make or change the nested stack of a resource and wait for it; ResourceFailed when it fails."""
        ...

    async def child_delete(self, parent: Context) -> None:
        """Delete the nested stack of a resource and wait for it."""
        ...

    def child(self, physical: str) -> StackRecord | None:
        """Return a nested stack by id or ARN."""
        ...

    def child_resource(self, stack: str, name: str) -> ResourceRecord | None:
        """Return the current resource of a nested stack."""
        ...

    def resource_value(self, record: ResourceRecord, attribute: str, path: list[Any]) -> Any:
        """Return an attribute of any resource, as its type gives it."""
        ...

    def reference_value(self, record: ResourceRecord) -> Any:
        """Return what Ref / get_resource of any resource gives."""
        ...

    async def wait(self, stack: StackRecord) -> None:
        """Return when no operation of a stack is under way."""
        ...

    def lock(self, record: str) -> asyncio.Lock:
        """Return what lets one at a time change the members of a group."""
        ...

    async def scale(self, group: ResourceRecord, change: Any) -> bool:
        """Change the wanted size of a scaling group by a `scaling.Adjustment`; return whether it changed. Durable on
        return. The members follow in the background."""
        ...

    def measured(self, record: ResourceRecord, rule: Any) -> list[float | None]:
        """Return the values that an alarm's `Rule` looks at, newest first; None where nothing was measured."""
        ...

    def find(self, physical: str) -> ResourceRecord | None:
        """Return the resource of that physical id, in any stack."""
        ...

    def target_of(self, action: str) -> ResourceRecord | None:
        """Return the resource that an alarm's action means: by its reference or by a signal URL of this host."""
        ...

    def place_of(self, record: ResourceRecord) -> tuple[str, str] | None:
        """Return deployable and assembly of a guest's record; None when it is no guest."""
        ...

    def guests_in(self, group: str) -> list[ResourceRecord]:
        """Return the guests that are in a security group, those of all stacks."""
        ...

    async def address_of(self, record: ResourceRecord) -> str:
        """Return the address that a guest has now; empty when it has none."""
        ...

    async def guest_at(self, address: str, stack: str) -> ResourceRecord | None:
        """Return the guest that has an address, of those in a stack's tree."""
        ...

    async def balance(self, balancer: str, owner: str, what: list[str] | dict[str, Any]) -> None:
        """Tell a load balancer what an owner brings to it, instead of what it brought before: a group its instances' ids,
        a part its description. Nothing takes it out."""
        ...

    def note(self, record: ResourceRecord, sentence: str) -> None:
        """Write a line about a resource into its stack's events."""
        ...

    def make_key(self, user: str, stack: str, token: str) -> tuple[str, str]:
        """Make (or return again) the access key of a token: id and secret."""
        ...

    def enable_key(self, key: str, *, enabled: bool) -> None:
        """Let an access key sign requests, or no longer."""

    def drop_key(self, key: str) -> None:
        """Remove an access key."""
        ...

    def signed_url(self, record: ResourceRecord, purpose: str) -> str:
        """Return a URL that carries its own proof, for `signal` or `waitcondition`."""
        ...

    def save(self, record: ResourceRecord) -> None:
        """Store what was changed in a record."""
        ...

    async def keep(self, record: ResourceRecord) -> None:
        """Store what was changed in a record, durable on return: for what a crash must not forget."""
        ...


class NotChecked(Exception):
    """Whether a thing is still what its resource says can not be told; the sentence says why."""


class Context:
    """One resource, while something is done to it."""

    __slots__ = (
        "defaults",
        "files",
        "metadata",
        "policy",
        "properties",
        "record",
        "registry",
        "services",
        "stack",
        "update_policy",
    )

    def __init__(
        self,
        services: Services,
        stack: StackRecord,
        record: ResourceRecord,
        properties: dict[str, Any],
        *,
        metadata: dict[str, Any] | None = None,
        policy: Any = None,
        update_policy: Any = None,
        files: Mapping[str, str] | None = None,
        registry: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.services = services
        self.stack = stack
        self.record = record
        self.properties = properties
        self.metadata = metadata if metadata is not None else record.metadata
        self.policy = policy
        self.update_policy = update_policy
        self.files = files or {}
        self.registry = registry or {}
        self.defaults = defaults or {}
        """The environment's parameter_defaults, which hold in nested stacks too."""

    @property
    def token(self) -> str:
        """Id of this incarnation of the resource: stable over crashes, new after a replacement."""
        return self.record.id

    @property
    def short(self) -> str:
        """A short form of the token for names."""
        return self.record.id.replace("-", "")[:12].upper()

    def physical_name(self) -> str:
        """Return CloudFormation's form of a generated name: STACK-RESOURCE-HASH."""
        return f"{self.stack.name}-{self.record.name}-{self.short}"

    async def until(self, check: Callable[[], Any], *, deadline: float, interval: float = 0.5) -> Any:
        """Poll until `check` gives something true, or ResourceFailed at the deadline (wall-clock)."""
        while True:
            found = check()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            if self.services.now() >= deadline:
                raise ResourceFailed("it took too long")
            await asyncio.sleep(interval)


class ResourceType:
    """Base of all types."""

    names: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[Schema] = {}
    attributes: ClassVar[frozenset[str] | None] = frozenset()
    """Names that `GetAtt` may ask for; None when they are not known beforehand."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Features of the platform it cannot do without."""
    description: ClassVar[str] = ""
    nested: ClassVar[bool] = False
    """Whether its physical thing is a stack."""
    updates_metadata: ClassVar[bool] = True
    snapshots: ClassVar[bool] = False
    """Whether a snapshot of it can be made before it is deleted, where the platform has them."""
    keeps_signals: ClassVar[bool] = True
    """Whether its signals are stored, as waiting for them needs; else they are only acted upon."""
    repeats: ClassVar[bool] = False
    """Whether an alarm that stays in its state signals it again and again."""

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Return what is wrong beyond the schema; values may be Unknown."""
        return []

    def notes(self, properties: Mapping[str, Any]) -> list[str]:
        """Return what of these properties has no effect here, beyond the schema; values may be Unknown."""
        return []

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """Return what this platform can not do for a resource with these properties; values may be Unknown."""
        return []

    def claims(self, properties: Mapping[str, Any]) -> dict[str, tuple[str | int, ...]]:
        """Return the addresses that are asked for and known, each with the path of the property that says so."""
        return {}

    def beneath(self, context: Context) -> bool:
        """Whether what its nested stack is made from is other than before, as a changed file makes it."""
        return False

    async def create(self, context: Context) -> None:
        """Make it; sets `record.physical`, and `attributes` and `data` where there are any."""
        raise NotImplementedError

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Apply changed properties in place."""

    async def delete(self, context: Context) -> None:
        """Remove it. No error when it is not there."""

    async def snapshot(self, context: Context) -> str:
        """Make a snapshot of it, the same again after a crash; return its id. Only where `snapshots` says so."""
        raise NotImplementedError

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """Return the properties as they really are where they differ; None when the thing is gone. NotChecked when that can
        not be told: a type that does not look can not."""
        raise NotChecked(f"{self.names[0]} is not compared with what is there")

    def due(self, context: Context) -> bool:
        """Whether an alarm that stays in its state has anything to signal to it, where `repeats` says so."""
        return True

    def deployable(self, record: ResourceRecord) -> str:
        """Return the deployable that it is, beside the stack's own; empty for none."""
        return ""

    async def signal(self, context: Context, signal: Mapping[str, Any]) -> None:
        """Take a signal that was just stored."""

    def reference(self, record: ResourceRecord, services: Services) -> Any:
        """Return what Ref / get_resource gives."""
        return record.physical

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """Return what GetAtt / get_attr gives."""
        if name == "show" and name not in record.attributes:
            return walk(dict(record.attributes), path)
        if name in record.attributes:
            return walk(record.attributes[name], path)
        return None

    def known_attribute(self, name: str) -> None:
        """FunctionError when there is no such attribute."""
        if self.attributes is not None and name and name != "show" and name not in self.attributes:
            raise FunctionError(
                f"{self.names[0]} has no attribute '{name}'",
                "UNKNOWN_ATTRIBUTE",
                f"it has: {', '.join(sorted(self.attributes)) or 'none'}",
            )


def failed(problem: BaseException) -> str:
    """Return the sentence of an error for a resource's event."""
    if isinstance(problem, PcloudError):
        return "; ".join(item.message for item in problem.problems)
    return str(problem) or type(problem).__name__


def seconds_of(text: str) -> float:
    """Return the seconds of an ISO 8601 duration such as PT1H30M; 300 when it is none."""
    match = re.fullmatch(r"PT(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,6})S)?", text)
    if match is None or not any(match.groups()):
        return 300.0
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(hours * 3600 + minutes * 60 + seconds)


def known(value: Any) -> bool:
    """Return whether a property's value is known already."""
    return value is not None and not isinstance(value, Unknown)
