"""Carries out the actions of a transition graph: each becomes a call on the world and ends as one observation.

Stateless but for what guests were last seen as; the control loop decides when an action starts and that no two of them
work on the same resource at once.
"""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec

from pcloud.dpe.environment import Environment
from pcloud.dpe.links import Links
from pcloud.dpe.messages import GuestMaterial
from pcloud.environment.infrastructure import (
    GuestInfo,
    GuestSpec,
    GuestState,
    HasLimits,
    InfrastructureError,
    InfrastructureUnavailable,
)
from pcloud.environment.transport import (
    Connection,
    Endpoint,
    Operation,
    OperationResult,
    OperationStatus,
    TransportError,
)
from pcloud.model.deployable import NO_LIMITS, Assembly, Resource, ResourceLimits
from pcloud.policy import placement
from pcloud.policy.cib import resource_id
from pcloud.policy.definition import configure_digest, resolved, service_digest
from pcloud.policy.graph import Action
from pcloud.policy.limits import wanted
from pcloud.policy.observation import GuestActed, GuestBounded, GuestSeen, Observation, Operated
from pcloud.policy.service_limits import concerns
from pcloud.policy.state import ISOLATING, State

PORTS = {"remote": 3121, "ssh": 22, "none": 0}
CONFIGURE_TIMEOUT = 300.0


class Executor:
    """Actions of one deployable onto its world."""

    __slots__ = ("_environment", "_infos", "_links", "braked", "guests")

    def __init__(self, environment: Environment, links: Links) -> None:
        self._environment = environment
        self._links = links
        self._infos: dict[str, GuestInfo] = {}
        self.braked: set[str] = set()
        """Assemblies whose start waits for the storm brake."""
        self.guests: dict[str, GuestMaterial] = {}

    def guest_id(self, state: State, assembly: str) -> str:
        """Return the infrastructure's name of a guest."""
        return f"{state.deployable.name}.{assembly}"

    # --- guests

    async def look(self, state: State, assembly: str, reason: str = "") -> Observation:
        """Ask the infrastructure about a guest; `reason` is what its watch told."""
        try:
            info = await self._environment.infrastructure.inspect(self.guest_id(state, assembly))
        except InfrastructureError as error:
            return GuestActed(assembly=assembly, action="look", error=str(error), unavailable=True)
        self._infos[assembly] = info
        if info.state is GuestState.UNKNOWN:
            return GuestActed(
                assembly=assembly, action="look", error="the infrastructure does not know", unavailable=True
            )
        return GuestSeen(assembly=assembly, info=info, reason=reason)

    async def guest(self, state: State, assembly: Assembly, action: str) -> Observation:
        """Carry out `start`, `stop` or `delete` of a guest."""
        began = asyncio.get_running_loop().time()
        info: GuestInfo | None = None
        error, permanent, unavailable = "", False, False
        try:
            if action == "start":
                info = await self._start(state, assembly)
            elif action == "stop":
                await self._stop(state, assembly)
            else:
                await self._environment.infrastructure.delete(self.guest_id(state, assembly.name))
        except InfrastructureUnavailable as failure:
            error, unavailable = str(failure), True
        except InfrastructureError as failure:
            error, permanent = str(failure), failure.permanent
        return GuestActed(
            assembly=assembly.name, action=action, error=error, permanent=permanent, unavailable=unavailable, info=info,
            seconds=asyncio.get_running_loop().time() - began,
        )  # fmt: skip

    async def _start(self, state: State, assembly: Assembly) -> GuestInfo:
        material = self.guests[assembly.name]
        spec = GuestSpec(
            guest_id=self.guest_id(state, assembly.name),
            deployable=state.deployable.name,
            assembly=assembly.name,
            image=material.image,
            identity=material.identity,
            memory=assembly.memory,
            cpus=assembly.cpus,
            place=placement.place_of(state, assembly.name),
            host=assembly.host,
            digest=state.images.get(assembly.name, material.image.digest),
            start_timeout=assembly.start_timeout,
            saved_state=assembly.saved_state,
            seed=assembly.seed,
            address=assembly.address,
            addresses=assembly.addresses,
            firewall=assembly.firewall,
            interfaces=assembly.interfaces,
            groups=assembly.groups,
            volumes=assembly.volumes,
        )
        self.braked.add(assembly.name)
        try:
            async with self._environment.brake.slot(state.deployable.priority):
                self.braked.discard(assembly.name)
                info = await self._environment.infrastructure.start(spec)
        finally:
            self.braked.discard(assembly.name)
        self._infos[assembly.name] = info
        return info

    async def bound(self, state: State, assembly: Assembly) -> Observation:
        """Bring the limits of a guest that runs to its definition's."""
        infrastructure, (memory, cpus) = self._environment.infrastructure, wanted(assembly)
        seen = GuestBounded(assembly=assembly.name, bounds=(memory, cpus))
        if not isinstance(infrastructure, HasLimits):
            return seen
        guest_id = self.guest_id(state, assembly.name)
        try:
            done = await infrastructure.limits.bound(guest_id, memory=memory, cpus=cpus)
        except InfrastructureUnavailable as failure:
            return msgspec.structs.replace(seen, error=str(failure), unavailable=True)
        except InfrastructureError as failure:
            return msgspec.structs.replace(seen, error=str(failure))
        return msgspec.structs.replace(seen, changed=done.changed, later=done.later)

    async def _stop(self, state: State, assembly: Assembly) -> None:
        await self._links.drop(assembly.name)
        guest_id = self.guest_id(state, assembly.name)
        if state.guest(assembly.name).fault in ISOLATING:
            await self._environment.infrastructure.destroy(guest_id)
        else:
            await self._environment.infrastructure.stop(guest_id, timeout=assembly.stop_timeout)

    # --- connections

    async def connect(self, state: State, assembly: Assembly) -> Observation:
        """Connect to a guest's agent, within the time a guest may take to start."""
        began = asyncio.get_running_loop().time()
        error = ""
        try:
            endpoint = partial(self._endpoint, state, assembly)
            await self._links.connect(assembly.name, assembly.transport, endpoint, assembly.start_timeout)
        except TransportError as failure:
            error = f"{failure} [{failure.code}]"
        seconds = asyncio.get_running_loop().time() - began
        return GuestActed(assembly=assembly.name, action="connect", error=error, seconds=seconds)

    async def cut(self, state: State, assembly: Assembly) -> None:
        """Tear the connection to a guest's agent; TransportError when there is none."""
        await self._links.cut(assembly.name, assembly.transport, partial(self._endpoint, state, assembly))

    async def disconnect(self, assembly: str) -> Observation:
        """Close a guest's connection."""
        await self._links.drop(assembly)
        return GuestActed(assembly=assembly, action="disconnect")

    def _endpoint(self, state: State, assembly: Assembly) -> Endpoint:
        material = self.guests[assembly.name]
        info = self._infos.get(assembly.name)
        port = PORTS[assembly.transport]
        address, port = info.reach(port) if info is not None else (state.guest(assembly.name).address, port)
        return Endpoint(
            guest_id=self.guest_id(state, assembly.name),
            address=address,
            port=port,
            agent=assembly.agent,
            key=material.identity.agent_key,
            private_key=material.private_key,
            host_key=material.host_key,
        )

    # --- services

    async def operate(self, state: State, subject: str, resource: Resource, action: Action) -> Observation:
        """Carry out an operation on a service or its configure step."""
        assembly = subject.partition("/")[0]
        interval = action.interval_ms / 1000
        if action.task == "cancel":
            interval = int(action.meta.get("interval", action.interval_ms)) / 1000
        step = subject.endswith("!configure")
        if action.task == "stop":
            resource = state.service(subject).definition or resource
        digest = (configure_digest if step else service_digest)(state, resource) or ""
        began = asyncio.get_running_loop().time()
        try:
            connection = self._links.get(assembly)
            if action.task == "cancel":
                await connection.cancel(resource_id(subject), "monitor", interval)
                return Operated(subject=subject, action="cancel", interval=interval)
            operation = self._operation(state, subject, resource, action.task, interval, step=step)
            if interval and action.start_delay_ms:
                # Nothing waits for it: neither a stop, nor the end of the decision, nor a change of the interval.
                late = msgspec.structs.replace(operation, start_delay=action.start_delay_ms / 1000)
                self._links.watch(assembly, late)
                return Operated(subject=subject, action="watch", interval=interval)
            limits = None
            if action.task == "start" and not step and concerns(state, subject, resource):
                limits = await self._limit(connection, operation, resource.limits)
            result = await connection.execute(operation)
            if action.task == "stop" and subject in state.memory.limited and state.is_leaving(*subject.split("/", 1)):
                limits = await self._limit(connection, operation, NO_LIMITS)
        except TransportError as failure:
            return Operated(
                subject=subject, action=action.task, interval=interval, not_connected=True, reason=str(failure),
                digest=digest, definition=resource,
            )  # fmt: skip
        seen = operated(subject, result)
        if not seen.seconds:  # it never ended
            seen = msgspec.structs.replace(seen, seconds=asyncio.get_running_loop().time() - began)
        return msgspec.structs.replace(seen, digest=digest, definition=resource, limits=limits)

    async def limit(self, subject: str, resource: Resource) -> Observation:
        """Bring a service that runs to its definition's limits."""
        operation = Operation(
            resource=resource_id(subject), resource_class=resource.resource_class, provider=resource.provider,
            type=resource.type, action="limit", timeout=resource.monitor_timeout, limits=resource.limits,
        )  # fmt: skip
        try:
            result = await self._links.get(subject.partition("/")[0]).execute(operation)
        except TransportError as failure:
            return Operated(
                subject=subject, action="limit", not_connected=True, reason=str(failure), definition=resource
            )
        return msgspec.structs.replace(operated(subject, result), definition=resource)

    @staticmethod
    async def _limit(connection: Connection, operation: Operation, limits: ResourceLimits) -> ResourceLimits | None:
        """Limit a service that does not run; None where that can not be, which is told once it runs."""
        asked = msgspec.structs.replace(operation, action="limit", parameters={}, limits=limits)
        result = await connection.execute(asked)
        return limits if result.rc == 0 and result.status is OperationStatus.DONE else None

    def _operation(
        self, state: State, subject: str, resource: Resource, task: str, interval: float, *, step: bool
    ) -> Operation:
        values = resolved(state, resource)
        parameters: dict[str, str] = {} if values is None else dict(values)
        timeout = {"start": resource.start_timeout, "stop": resource.stop_timeout}.get(task, resource.monitor_timeout)
        if step:
            return Operation(
                resource=resource_id(subject), resource_class="ocf", provider="pcloud", type="configure", action=task,
                interval=interval, timeout=CONFIGURE_TIMEOUT if task == "start" else timeout,
                parameters={
                    "resource": resource.name,
                    **{f"executable_{i}": word for i, word in enumerate(resource.configure)},
                    **{f"param_{name}": value for name, value in parameters.items()},
                },
            )  # fmt: skip
        # Of a systemd unit they become its environment, by our agent; Pacemaker's own ignores them.
        return Operation(
            resource=resource_id(subject), resource_class=resource.resource_class, provider=resource.provider,
            type=resource.type, action=task, interval=interval, timeout=timeout, parameters=parameters,
            processes=resource.processes,
        )  # fmt: skip


def operated(subject: str, result: OperationResult) -> Operated:
    """Return a transport's result as an observation."""
    error = {
        OperationStatus.TIMEOUT: "timed out",
        OperationStatus.NOT_SUPPORTED: "not supported by the agent",
        OperationStatus.ERROR: "could not be carried out",
        OperationStatus.NOT_INSTALLED: "its agent is not installed",
        OperationStatus.CANCELLED: "was cancelled",
    }.get(result.status, "")
    rc = result.rc
    if result.status is OperationStatus.NOT_INSTALLED:
        rc, error = 5, ""
    elif result.status in (OperationStatus.ERROR, OperationStatus.ERROR_HARD, OperationStatus.ERROR_FATAL) and rc:
        error = ""
    return Operated(
        subject=subject,
        action=result.action,
        interval=result.interval,
        rc=rc,
        error=error,
        not_connected=result.status is OperationStatus.NOT_CONNECTED,
        reason=result.exit_reason,
        signal=result.signal or "request",
        seconds=result.exec_seconds,
    )
