"""What is run in a guest over ssh for one operation, and what its outcome means: pure, no I/O.

Owns the mapping between the executor's vocabulary (`pcloud.environment.transport`) and ordinary programs of the guest.
Source of the mapping: Pacemaker's own executor (lib/services: services_ocf, services_lsb, systemd), so that a resource
behaves the same whether Pacemaker's daemon or plain sshd runs it.

Every remote command is a list of words; `command_line` quotes each of them, so that nothing a user wrote is ever read by
the guest's shell. Scripts are constants whose inputs are positional parameters.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

import pcloud
from pcloud.environment.transport import ExitCode, Operation, OperationStatus
from pcloud.transport import ssh_limits

OCF_ROOT = "/usr/lib/ocf"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EXIT_REASON = "ocf-exit-reason:"

_RESOURCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,199}")
_AGENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
_UNIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@\\-]{0,249}")
_ACTION = re.compile(r"[a-z][a-z-]{0,31}")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_PROCESS = re.compile(r"[^\x00-\x1f/]{1,64}")
_UNIT_SUFFIXES = (".service", ".socket", ".mount", ".timer", ".path", ".target", ".device", ".swap", ".slice", ".scope")

_SHOW = (
    "systemctl show --no-pager -p LoadState -p ActiveState -p SubState -p Result -p MainPID "
    '-p ExecMainStartTimestampMonotonic -- "$1"'
)

_SYSTEMD_START = f"""\
umask 077
case $1 in *.service)
  e=/run/pcloud/resources/$2.env d=/run/systemd/system/$1.d
  f=$d/99-pcloud.conf
  mkdir -p /run/pcloud/resources && cat > "$e.new" && mv -f "$e.new" "$e" || exit 1
  umask 022
  w=$(printf '[Service]\\nRestart=no\\nEnvironmentFile=-%s' "$e")
  if [ "$(cat "$f" 2>/dev/null)" != "$w" ]; then
    mkdir -p "$d" && printf '%s\\n' "$w" > "$f.new" && mv -f "$f.new" "$f" && systemctl daemon-reload || exit 1
  elif [ "$(systemctl show -p NeedDaemonReload --value -- "$1")" = yes ]; then
    systemctl daemon-reload || exit 1
  fi ;;
esac
systemctl reset-failed -- "$1" 2>/dev/null
systemctl start -- "$1" </dev/null
rc=$?
{_SHOW}
exit $rc
"""
"""Parameters, read from the input, become the service's environment, as with our agent. systemd's own `Restart=` would be a
second master of the service. `reset-failed` clears systemd's start rate limit, which else refuses the fifth recovery within
ten seconds."""

_SYSTEMD_STOP = f'systemctl stop -- "$1"\nrc=$?\n{_SHOW}\nexit $rc\n'
_SYSTEMD_RELOAD = f'systemctl reload -- "$1"\nrc=$?\n{_SHOW}\nexit $rc\n'
_SYSTEMD_FORGET = """\
f=/run/systemd/system/$1.d/99-pcloud.conf
if [ -f "$f" ]; then rm -f "$f" && rmdir --ignore-fail-on-non-empty "${f%/*}"; systemctl daemon-reload; fi
"""
_FIND_CLASS = """\
if [ -d /run/systemd/system ] && systemctl cat -- "$1.service" >/dev/null 2>&1; then echo systemd
elif [ -x "/etc/init.d/$1" ]; then echo lsb
else echo none
fi
"""
_FIND_PROCESSES = """\
for d in /proc/[0-9]*; do
  read -r name < "$d/comm" || continue
  for wanted; do
    [ "$name" = "$wanted" ] || continue
    while read -r key value; do [ "$key" = PPid: ] && break; done < "$d/status"
    parent=; read -r parent < "/proc/$value/comm"
    [ "$parent" = "$name" ] || echo "${d#/proc/}"
  done
done 2>/dev/null
:
"""
"""Only processes whose parent has another name: workers that a server starts and ends are no sign of anything."""

PREFLIGHT = "command -v timeout >/dev/null && command -v flock >/dev/null && command -v env >/dev/null || exit 7"
"""Run once on connecting: the programs that every other command relies on (coreutils, util-linux)."""

WATCH_EXITS = """\
while read -r pid; do
  case $pid in *[!0-9]*|'') continue ;; esac
  (tail -s "$1" --pid="$pid" -f /dev/null </dev/null; echo "$pid") &
done
kill 0
"""
"""Reads process ids from its input, prints each when that process has ended; the end of its input ends all of it."""


class InvalidOperation(ValueError):
    """The operation names something that can not be the name of an agent, unit, action or parameter."""


class RemoteExit(msgspec.Struct, frozen=True, kw_only=True):
    """How a remote command ended."""

    returncode: int = -1
    """-1 when it was ended by a signal, or is not known."""
    signal: str = ""
    """Name of the signal that ended it, without `SIG`."""
    stdout: bytes = b""
    stderr: bytes = b""
    seconds: float = 0.0
    timed_out: bool = False
    """This side gave up waiting."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation came to, in the executor's vocabulary."""

    rc: int
    status: OperationStatus = OperationStatus.DONE
    exit_reason: str = ""
    output: str = ""
    pid: int = 0
    """Main process of the service, where the guest's service manager told it."""
    pending: bool = False
    """The service is between two states: ask again."""


class ServiceClass(StrEnum):
    """The resource classes that this transport can run."""

    OCF = "ocf"
    SYSTEMD = "systemd"
    LSB = "lsb"
    SERVICE = "service"


def command_line(words: Sequence[str]) -> str:
    """Return the one string that sshd gives to the user's shell: every word quoted. ValueError when a word has a NUL."""
    if any("\0" in word for word in words):
        raise InvalidOperation("a word of a remote command contains a NUL character")
    return "exec " + " ".join(shlex.quote(word) for word in words)


def script(text: str, *arguments: str) -> list[str]:
    """Return the words that run one of this module's constant scripts with arguments."""
    return ["sh", "-c", text, "sh", *arguments]


def find_class(agent: str) -> list[str]:
    """Return the words that print which class (`lsb`, `systemd`, `none`) a `service` resource is in this guest."""
    return script(_FIND_CLASS, agent)


def find_processes(names: Sequence[str]) -> list[str]:
    """Return the words that print the ids of the processes with these names that are not children of their like."""
    return script(_FIND_PROCESSES, *names)


def unit_name(name: str) -> str:
    """Return the systemd unit for a resource's type, as Pacemaker does: `.service` unless it says otherwise."""
    return name if name.endswith(_UNIT_SUFFIXES) else f"{name}.service"


def systemd_show(name: str) -> list[str]:
    """Return the words that print a unit's state."""
    return script(f"exec {_SHOW}", unit_name(name))


def systemd_forget(name: str) -> list[str]:
    """Return the words that give a unit its own restart policy back."""
    return script(_SYSTEMD_FORGET, unit_name(name))


def validate(operation: Operation) -> None:
    """Raise InvalidOperation when a name in the operation is not what its kind of name may be."""
    checks = [
        (_RESOURCE, operation.resource, "resource"),
        (_ACTION, operation.action, "action"),
        (_UNIT if operation.resource_class == ServiceClass.SYSTEMD else _AGENT, operation.type, "type"),
    ]
    if operation.resource_class not in list(ServiceClass):
        raise InvalidOperation(f"resource class {operation.resource_class!r} can not be run over ssh")
    if operation.resource_class == ServiceClass.OCF:
        checks.append((_AGENT, operation.provider, "provider"))
    checks += [(_PARAMETER, name, "parameter name") for name in operation.parameters]
    checks += [(_PROCESS, name, "process name") for name in operation.processes]
    for pattern, value, what in checks:
        if not pattern.fullmatch(value):
            raise InvalidOperation(f"{value!r} can not be a {what}")
    if any("\0" in value for value in operation.parameters.values()):
        raise InvalidOperation("a parameter's value contains a NUL character")


def operation_words(operation: Operation, resource_class: str, *, username: str = "root") -> list[str]:
    """Return the words to run in the guest for an operation whose class (`service` resolved) is given.

    The guest itself enforces the time-out (`timeout` kills the whole process group), so that it holds when the link
    breaks; `flock` keeps an operation that outlived its connection from overlapping with the next one on that resource.
    """
    limit = ["timeout", "-s", "KILL", f"{operation.timeout:.3f}"]
    environment = ["env", f"PATH={PATH}", "LC_ALL=C"]
    match resource_class:
        case ServiceClass.OCF:
            environment += _ocf_environment(operation)
            agent = f"{OCF_ROOT}/resource.d/{operation.provider}/{operation.type}"
            own = own_agent(operation)
            run = ["sh", "-c", own, agent, operation.action] if own else ["env", agent, operation.action]
            words = [*limit, *_lock(operation.resource), *run]
        case ServiceClass.LSB:
            action = "status" if operation.action == "monitor" else operation.action
            words = [*limit, *_lock(operation.resource), "env", f"/etc/init.d/{operation.type}", action]
        case _:
            words = [*limit, *_systemd_words(operation)]
    return [*as_root(username), *environment, *words]


def own_agent(operation: Operation) -> str:
    """Return the text of an OCF agent of ours (`ocf:pcloud:configure`, …), empty for others: it is sent with each operation,
    so that the guest need not have it."""
    if operation.provider != "pcloud":
        return ""
    path = Path(pcloud.__file__).parent / "agent" / "ocf" / operation.type
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def operation_input(operation: Operation, resource_class: str) -> bytes:
    """Return what an operation's command reads: of a systemd unit's start its environment, which may hold secrets and so
    is no word of a command that others in the guest could see."""
    if resource_class != ServiceClass.SYSTEMD or operation.action != "start":
        return b""
    lines = []
    for name, value in sorted(operation.parameters.items()):
        if name.isidentifier() and not name.startswith("CRM_meta_") and name != "crm_feature_set":
            for character in '\\"$`':
                value = value.replace(character, "\\" + character)
            lines.append(f'{name}="{value}"\n')
    return "".join(lines).encode()


def as_root(username: str) -> list[str]:
    """Return the words before a command that make it run as root for this login."""
    return [] if username == "root" else ["sudo", "-n", "--"]


def interpret(operation: Operation, resource_class: str, end: RemoteExit) -> Outcome:
    """Return what the end of an operation's remote command means."""
    killed = end.signal == "KILL" or end.returncode == 137
    if end.timed_out or (killed and end.seconds >= operation.timeout * 0.99):
        return Outcome(
            rc=ExitCode.ERROR,
            status=OperationStatus.TIMEOUT,
            exit_reason=f"{operation.action} did not end within {operation.timeout:g} seconds",
            output=_text(end.stdout),
        )
    if end.signal or end.returncode < 0:
        reason = f"{operation.action} was ended by signal {end.signal or 'unknown'}"
        return Outcome(rc=ExitCode.ERROR, status=OperationStatus.ERROR, exit_reason=reason)
    if resource_class == ServiceClass.SYSTEMD:
        return _interpret_systemd(operation.action, end)
    missing = _not_executed(end)
    if missing is not None:
        return missing
    rc = end.returncode if resource_class == ServiceClass.OCF else lsb_exit_code(operation.action, end.returncode)
    return Outcome(rc=rc, exit_reason=_exit_reason(end.stderr), output=_text(end.stdout))


def lsb_exit_code(action: str, returncode: int) -> int:
    """Return the OCF exit code for an init script's; only `status` has a numbering of its own."""
    if action not in ("monitor", "status"):
        return returncode if 0 <= returncode <= ExitCode.NOT_RUNNING else ExitCode.ERROR
    match returncode:
        case 0:
            return ExitCode.OK
        case 1 | 2 | 3:  # dead with a pid file, dead with a lock file, not running
            return ExitCode.NOT_RUNNING
        case 150:
            return ExitCode.NOT_INSTALLED
        case 151:
            return ExitCode.INSUFFICIENT_PRIVILEGES
        case _:
            return ExitCode.ERROR


def _lock(resource: str) -> list[str]:
    # `-o` closes the lock before the agent runs: a daemon it starts must not inherit it
    return ["flock", "-o", f"/run/pcloud-{resource}.lock"]


def _ocf_environment(operation: Operation) -> list[str]:
    pairs = {
        "OCF_ROOT": OCF_ROOT,
        "OCF_RA_VERSION_MAJOR": "1",
        "OCF_RA_VERSION_MINOR": "1",
        "OCF_RESOURCE_INSTANCE": operation.resource,
        "OCF_RESOURCE_PROVIDER": operation.provider,
        "OCF_RESOURCE_TYPE": operation.type,
        "OCF_EXIT_REASON_PREFIX": EXIT_REASON,
        "OCF_RESKEY_CRM_meta_interval": f"{operation.interval * 1000:.0f}",
        "OCF_RESKEY_CRM_meta_timeout": f"{operation.timeout * 1000:.0f}",
    }
    pairs |= {f"OCF_RESKEY_{name}": value for name, value in operation.parameters.items()}
    return [f"{name}={value}" for name, value in pairs.items()]


def _systemd_words(operation: Operation) -> list[str]:
    unit = unit_name(operation.type)
    match operation.action:
        case "start":
            return script(_SYSTEMD_START, unit, operation.resource)
        case "stop":
            return script(_SYSTEMD_STOP, unit)
        case "reload":
            return script(_SYSTEMD_RELOAD, unit)
        case "limit":
            return script(ssh_limits.SCRIPT, unit, *ssh_limits.properties(operation.limits))
        case "monitor" | "status":
            return systemd_show(operation.type)
        case _:
            raise InvalidOperation(f"systemd units have no action {operation.action!r}")


def _interpret_systemd(action: str, end: RemoteExit) -> Outcome:
    if action == "limit":
        why = _text(end.stderr).strip()
        return Outcome(rc=ExitCode.ERROR, exit_reason=why) if end.returncode else Outcome(rc=ExitCode.OK)
    unit = dict(line.split("=", 1) for line in _text(end.stdout).splitlines() if "=" in line)
    state, load = unit.get("ActiveState", ""), unit.get("LoadState", "")
    message = _text(end.stderr).strip()
    if not state:
        rc = ExitCode.NOT_INSTALLED if end.returncode == 127 else ExitCode.ERROR
        return Outcome(rc=rc, status=OperationStatus.ERROR, exit_reason=message or "the guest does not run systemd")
    if action == "stop":
        if state in ("inactive", "failed") or load == "not-found":
            return Outcome(rc=ExitCode.OK)
        pending = state in ("activating", "deactivating", "reloading")
        return Outcome(rc=ExitCode.ERROR, exit_reason=message or f"still {state}", pending=pending)
    if load == "not-found":
        reason = "the unit does not exist in the guest"
        return Outcome(rc=ExitCode.NOT_INSTALLED, status=OperationStatus.NOT_INSTALLED, exit_reason=reason)
    if load == "masked" and action == "start":
        return Outcome(rc=ExitCode.ERROR, status=OperationStatus.ERROR, exit_reason="the unit is masked")
    if state in ("activating", "deactivating"):
        return Outcome(rc=ExitCode.ERROR, exit_reason=f"still {state}", pending=True)
    if state in ("active", "reloading", "refreshing"):
        rc = ExitCode.ERROR if action == "reload" and end.returncode else ExitCode.OK
        return Outcome(rc=rc, exit_reason=message if rc else "", pid=int(unit.get("MainPID", "0") or 0))
    result = unit.get("Result", "")
    detail = f"{state} ({result})" if result not in ("", "success") else state
    return Outcome(rc=ExitCode.NOT_RUNNING, exit_reason=detail)


def _not_executed(end: RemoteExit) -> Outcome | None:
    """Tell an agent that could not be run from one that returned the same code: only `env` itself says `env: `."""
    message = next((line for line in _text(end.stderr).splitlines() if line.startswith("env: ")), "")
    if not message or end.returncode not in (126, 127):
        return None
    if end.returncode == 127:
        return Outcome(rc=ExitCode.NOT_INSTALLED, status=OperationStatus.NOT_INSTALLED, exit_reason=message[5:])
    return Outcome(rc=ExitCode.INSUFFICIENT_PRIVILEGES, status=OperationStatus.ERROR, exit_reason=message[5:])


def _exit_reason(stderr: bytes) -> str:
    lines = [line for line in _text(stderr).splitlines() if line.startswith(EXIT_REASON)]
    return lines[-1][len(EXIT_REASON) :].strip() if lines else ""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
