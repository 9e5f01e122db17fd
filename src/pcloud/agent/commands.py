"""What the executor queues: commands of clients, and the resources that they are for. Values only, no behaviour."""

from __future__ import annotations

from pcloud.agent import watch
from pcloud.agent.loop import Timer
from pcloud.agent.operation import ERROR, FAILED, NOT_RUNNING, UNIMPLEMENTED, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pcloud.agent.runner import Running


class Command:
    """One operation asked for by a client."""

    __slots__ = (
        "action",
        "again",
        "call_id",
        "client",
        "delay",
        "first_sent",
        "interval",
        "last_rc",
        "last_status",
        "options",
        "parameters",
        "queued",
        "ran",
        "ran_at",
        "rc",
        "rc_changed",
        "resource_id",
        "signal",
        "start_delay",
        "stopping",
        "timeout",
        "timer",
        "told_at",
        "user_data",
    )

    def __init__(self, resource_id: str, action: str, interval: int, timeout: int, parameters: dict[str, str]) -> None:
        """`interval` and `timeout` are milliseconds."""
        self.resource_id = resource_id
        self.action = action
        self.interval = interval
        self.timeout = timeout
        self.parameters = parameters
        self.start_delay = self.options = self.call_id = 0
        self.client = ""
        self.user_data: str | None = None
        self.delay: Timer | None = None
        self.timer: Timer | None = None
        self.queued = self.ran = 0.0
        self.ran_at = self.rc_changed = self.told_at = 0
        self.rc = 0
        self.first_sent = False
        self.last_rc = self.last_status = 0
        self.signal = ""
        self.again = self.stopping = False

    def matches(self, action: str, interval: int) -> bool:
        """Whether it is that operation (names are compared as upstream does, without regard to case)."""
        return self.interval == interval and self.action.lower() == action.lower()


class Resource:
    """A registered resource."""

    __slots__ = (
        "active",
        "id",
        "options",
        "pending",
        "provider",
        "quiet",
        "recurring",
        "resource_class",
        "running",
        "searched",
        "searches",
        "type",
        "watch",
    )

    def __init__(self, resource_id: str, resource_class: str, provider: str, agent: str, options: int) -> None:
        self.id = resource_id
        self.resource_class = resource_class
        self.provider = provider
        self.type = agent
        self.options = options
        self.pending: list[Command] = []
        self.recurring: list[Command] = []
        self.active: Command | None = None
        self.running: Running | None = None
        self.watch: watch.Watch | None = None
        self.searched = -1e9
        """When its processes were last looked for."""
        self.searches = 0
        self.quiet = 0
        """How many times in a row an exit triggered a monitor that saw nothing."""


def refuse_stonith(command: Command) -> Result:
    """Return what upstream's remote executor answers for a fence device: it has no fencer to ask."""
    if command.action == "monitor" and command.interval == 0:
        return Result(NOT_RUNNING, FAILED)
    if command.action in ("start", "stop", "monitor"):
        return Result(ERROR, FAILED, "No connection to fencer")
    return Result(UNIMPLEMENTED, FAILED, "No connection to fencer")
