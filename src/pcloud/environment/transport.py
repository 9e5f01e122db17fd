"""What the engine asks of a transport: to run resource operations in a guest and to tell when it falls silent.

The vocabulary is Pacemaker's executor's, because the Pacemaker Remote protocol is one implementation: exit codes 0 to 9,
190 and so on are OCF's; `OperationStatus` numbers are the executor's (`pcmk_exec_*` upstream).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Protocol

import msgspec

from pcloud.model.deployable import NO_LIMITS, ResourceLimits


class ExitCode(IntEnum):
    """OCF exit codes (resource agent API 1.1), in Pacemaker's numbering."""

    OK = 0
    ERROR = 1
    INVALID_PARAM = 2
    UNIMPLEMENTED = 3
    INSUFFICIENT_PRIVILEGES = 4
    NOT_INSTALLED = 5
    NOT_CONFIGURED = 6
    NOT_RUNNING = 7
    RUNNING_PROMOTED = 8
    FAILED_PROMOTED = 9
    DEGRADED = 190
    DEGRADED_PROMOTED = 191


class OperationStatus(IntEnum):
    """How an operation ended, apart from its exit code."""

    PENDING = -1
    DONE = 0
    CANCELLED = 1
    TIMEOUT = 2
    NOT_SUPPORTED = 3
    ERROR = 4
    ERROR_HARD = 5
    ERROR_FATAL = 6
    NOT_INSTALLED = 7
    NOT_CONNECTED = 8
    INVALID = 9


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of a resource agent in a guest."""

    resource: str
    """The resource's id in the executor, such as `rsc_web_httpd`."""
    resource_class: str
    provider: str = ""
    type: str
    action: str
    """`start`, `stop`, `monitor`, `meta-data`, `validate-all`, `reload` …; of our agent and by ssh also `limit`, which
    brings a systemd unit to `limits` and to no others, whether it runs or not."""
    interval: float = 0.0
    """Seconds; above 0 the guest repeats it and reports changes only."""
    timeout: float = 20.0
    start_delay: float = 0.0
    """Seconds before the guest runs it (the first time, of one that it repeats); `timeout` counts from then on."""
    parameters: Mapping[str, str] = {}
    """Agent parameters and `CRM_meta_*` attributes."""
    processes: tuple[str, ...] = ()
    """Names of processes whose exit triggers a recurring monitor, where the agent can not find them itself."""
    limits: ResourceLimits = NO_LIMITS
    """Of the action `limit`."""


class OperationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an operation, or a change of a recurring one."""

    resource: str
    action: str
    interval: float = 0.0
    rc: int
    status: OperationStatus = OperationStatus.DONE
    call_id: int = 0
    exit_reason: str = ""
    output: str = ""
    started: float = 0.0
    """Wall-clock time by this host's clock at which the operation began, or the change was seen."""
    exec_seconds: float = 0.0
    queue_seconds: float = 0.0
    signal: str = ""
    """What triggered it: `request`, `interval` or `exit` (a process of the service ended)."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how to reach one guest."""

    guest_id: str
    address: str
    port: int
    agent: str = "pcloud"
    key: bytes = b""
    """Pre-shared key (`remote`)."""
    username: str = "root"
    private_key: str = ""
    """ssh private key in OpenSSH format (`ssh`)."""
    host_key: str = ""
    """Pinned public host key, one line (`ssh`)."""


class TransportError(Exception):
    """The guest can not be reached, does not speak the protocol, or refused us. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Connection(Protocol):
    """One guest's live connection. After `on_lost` was called every method raises TransportError."""

    async def execute(self, operation: Operation) -> OperationResult:
        """Run an operation and return its result; of a recurring one the first result, later changes go to `on_result`.
        The wait is bounded by the operation's time-out and a margin, after which the result has status TIMEOUT.
        Cancelling the caller's task does not cancel the operation in the guest."""
        ...

    async def cancel(self, resource: str, action: str, interval: float) -> None:
        """Stop repeating a recurring operation; unknown ones are ignored."""
        ...

    async def forget(self, resource: str) -> None:
        """Remove the resource from the guest's executor (its recurring operations end)."""
        ...

    async def check(self, *, timeout: float) -> None:
        """Make the guest prove that it answers; TransportError when it does not within `timeout` seconds."""
        ...

    async def close(self) -> None:
        """Close in order; resources in the guest go on, recurring operations too as far as the agent keeps them."""
        ...


class Transport(Protocol):
    """One way to reach guests."""

    name: str
    """The word used in manifests: `remote`, `ssh`, `none`."""

    async def connect(
        self,
        endpoint: Endpoint,
        *,
        on_result: Callable[[OperationResult], None],
        on_lost: Callable[[TransportError], None],
        timeout: float,
    ) -> Connection:
        """Connect once (no retry; the engine retries with back-off). The connection checks itself with the transport's
        own keep-alive; `on_lost` is called at most once, and not after `close`."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
