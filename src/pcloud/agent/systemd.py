"""What systemd is asked, and what it tells, over D-Bus.

Owns: units' names and object paths, and the jobs under way. Callbacks in the loop. Actions on units are in `units`, which is
imported when a unit is first managed: this module is in every guest whose first process is systemd.
"""

from __future__ import annotations

from pcloud.agent.dbus import Bus, DBusError, Message
from pcloud.agent.loop import Loop

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

_MANAGER = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
UNIT, SERVICE = "org.freedesktop.systemd1.Unit", "org.freedesktop.systemd1.Service"
_TYPES = (".service", ".socket", ".mount", ".automount", ".swap", ".target", ".timer", ".path", ".slice", ".scope")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def unit_name(agent: str) -> str:
    """Return the unit's full name; `.service` is the default."""
    return agent if agent.endswith(_TYPES) else agent + ".service"


def unit_path(unit: str) -> str:
    """Return the unit's D-Bus object path (systemd loads the unit when it is asked for)."""
    out = []
    for at, letter in enumerate(unit.encode()):
        character = chr(letter)
        if character in _LETTERS or (character.isdigit() and letter < 128 and at > 0):
            out.append(character)
        else:
            out.append(f"_{letter:02x}")
    return "/org/freedesktop/systemd1/unit/" + "".join(out)


class Systemd:
    """Talks to systemd for all resources."""

    __slots__ = ("_bus", "_jobs", "_loop", "ending")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.ending = False
        """Whether the agent is to end when what it manages has been stopped. systemd would not stop a service that is
        ordered before an agent whose own stop is under way: each would wait for the other."""
        self._bus = Bus(loop, self._on_signal)
        self._jobs: dict[str, Callable[[str], None] | str] = {}

    def exists(self, agent: str, reply: Callable[[bool], None]) -> None:
        """Tell whether systemd knows such a unit."""
        self.unit_property(
            unit_name(agent), UNIT, "LoadState", lambda value, _error: reply(value in ("loaded", "masked"))
        )

    def main_process(self, agent: str, reply: Callable[[int, str], None]) -> None:
        """Tell a service's main process (0 when it has none) and its control group."""
        unit = unit_name(agent)

        def on_group(pid: int, value: object) -> None:
            reply(pid, value if isinstance(value, str) else "")

        def on_pid(value: object, _error: DBusError | None) -> None:
            pid = value if isinstance(value, int) else 0
            if pid > 0:
                reply(pid, "")
            else:
                self.unit_property(unit, SERVICE, "ControlGroup", lambda group, _failure: on_group(0, group))

        self.unit_property(unit, SERVICE, "MainPID", on_pid)

    def unit_property(
        self, unit: str, interface: str, name: str, reply: Callable[[object, DBusError | None], None]
    ) -> int:
        """Read one property of a unit."""
        return self._bus.call(
            unit_path(unit),
            "org.freedesktop.DBus.Properties",
            "Get",
            "ss",
            (interface, name),
            lambda values, error: reply(values[0] if values else None, error),
        )

    def job_ended(self, unit: str, reply: Callable[[], None]) -> None:
        """Tell when a unit has no job (any more), or that can not be asked. Where the connection is lost meanwhile, nothing
        is told."""

        def on_job(value: object, _error: DBusError | None) -> None:
            if isinstance(value, list) and value[0]:  # number and path
                self.when_done(str(value[1]), lambda _result: reply())
            else:
                reply()

        self.unit_property(unit, UNIT, "Job", on_job)

    def manager(
        self,
        method: str,
        signature: str,
        arguments: tuple[object, ...] | bytes,
        reply: Callable[[list[object], DBusError | None], None],
    ) -> int:
        """Call the manager."""
        return self._bus.call(*_MANAGER, method, signature, arguments, reply)

    def abandon(self, number: int) -> None:
        """Ignore the answer to that call."""
        self._bus.abandon(number)

    def when_done(self, job: str, reply: Callable[[str], None]) -> None:
        """Tell a job's result (`done`, `failed`, `timeout`, …) when it ends, or has ended."""
        known = self._jobs.pop(job, None)
        if isinstance(known, str):
            reply(known)
        else:
            self._jobs[job] = reply

    def forget_job(self, job: str) -> None:
        """Do not tell that job's result any more."""
        self._jobs.pop(job, None)

    def _on_signal(self, message: Message) -> None:
        if message.member != "JobRemoved" or len(message.arguments) < 4:
            return
        job, result = str(message.arguments[1]), str(message.arguments[3])
        waiting = self._jobs.pop(job, None)
        if callable(waiting):
            waiting(result)
            return
        # The signal may come before the answer that names the job: remember some.
        self._jobs[job] = result
        if len(self._jobs) > 64:
            for old in [name for name, value in self._jobs.items() if isinstance(value, str)][:32]:
                del self._jobs[old]
