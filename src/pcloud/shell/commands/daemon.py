"""Commands about the daemon: up, down, doctor, version, completion.

Which process the daemon is, only the daemon says: it holds `$PCLOUD_HOME/run/cped.lock` locked, with its number in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import click

from pcloud.shell import output as out
from pcloud.shell.exits import Exit
from pcloud.shell.framework import Command, Seconds, Session, output_option, pass_session

if TYPE_CHECKING:
    from pcloud.client.records import Check
    from pcloud.client.settings import Settings
    from pcloud.model.errors import PcloudError

DAEMON = "pcloud-cped"
DEFAULT_URL = "http://127.0.0.1:8780"
LOG_TAIL = 20
STANDBY = "STANDBY"
"""Code of every answer of a daemon whose store another owns."""


@click.command(
    cls=Command,
    examples=[
        ("pcloud up --detach", "start the daemon, return when it answers"),
        ("pcloud up", "run it in the foreground; Ctrl-C ends it, guests go on"),
    ],
)
@click.option("-d", "--detach", is_flag=True, help="Run it in the background.")
@click.option(
    "--timeout",
    type=Seconds(),
    default="60s",
    show_default=True,
    metavar="TIME",
    help="With --detach: until it answers.",
)
@pass_session
def up(session: Session, detach: bool, timeout: float) -> None:
    """Start the daemon (pcloud-cped) on this machine.

    It keeps its state in $PCLOUD_HOME and answers at $PCLOUD_URL. Guests that run already are taken over as they are.
    """
    from pcloud.model.errors import Conflict

    settings = _local(session)
    if _answers(session):
        _is_of_this_home(session)
        if detach:
            out.done(f"the daemon answers at {settings.url} already")
            return
        raise Conflict.of("ALREADY_UP", f"a daemon answers at {settings.url} already", hint="`pcloud down` ends it")
    program = _program()
    environment = {**os.environ, "PCLOUD_HOME": settings.home}
    words = [program, "--home", settings.home]
    if settings.url != DEFAULT_URL:
        words += ["--listen", urlsplit(settings.url).netloc]
    if not detach:
        os.execve(program, words, environment)  # noqa: S606 - the daemon's own program, no shell
    log = Path(settings.home) / "log" / "cped.log"
    _make(log.parent)
    with log.open("ab") as target:
        beginning = target.tell()
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            cwd="/",
        )
    _await_answer(session, child, log, beginning, timeout)
    # The child goes on without us.
    child.returncode = 0
    out.done(f"the daemon answers at {settings.url} (process {child.pid}, log {log})")
    if standing_by := _standing_by(session):
        out.note(standing_by)


def _await_answer(session: Session, child: subprocess.Popen[bytes], log: Path, beginning: int, timeout: float) -> None:
    """Return when the daemon answers; an error with the end of its log when it ends or takes too long."""
    from pcloud.client.errors import TimedOut, Unreachable

    started = time.monotonic()
    shown = 0.0
    while not _answers(session):
        passed = time.monotonic() - started
        if child.poll() is not None:
            raise Unreachable.of(
                "DAEMON_ENDED",
                f"the daemon ended at once with exit code {child.returncode}; its log {log} says:\n{_tail(log, beginning)}",
                hint="`pcloud doctor` says what this machine lacks",
            )
        if passed >= timeout:
            raise TimedOut.of("TIMED_OUT", f"the daemon does not answer after {timeout:g} s; see its log {log}")
        if passed - shown >= 5:
            shown = passed
            out.note(f"waiting for the daemon to answer ({passed:.0f} s)")
        time.sleep(0.05)


@click.command(
    cls=Command,
    short_help="End the daemon on this machine; guests go on.",
    examples=[
        ("pcloud down", "guests go on, nobody watches them"),
        ("pcloud down --keep-engines", "for an upgrade: what is watched goes on being watched"),
        ("pcloud down --guests", "stop every deployable in order, then end"),
    ],
)
@click.option("--keep-engines", is_flag=True, help="Let the engine processes go on watching and recovering guests.")
@click.option("--guests", is_flag=True, help="Stop every deployable first.")
@click.option(
    "--timeout", type=Seconds(), default="300s", show_default=True, metavar="TIME", help="How long it may take to end."
)
@pass_session
def down(session: Session, keep_engines: bool, guests: bool, timeout: float) -> None:
    """End the daemon and its engine processes on this machine.

    Guests and their services go on, and `pcloud up` takes them over again; until then nobody recovers them.
    """
    from pcloud.client.errors import TimedOut, Unreachable
    from pcloud.model.errors import Conflict, PcloudError

    if keep_engines and guests:
        raise click.UsageError("--keep-engines and --guests exclude each other")
    settings = _local(session)
    pid = _running_pid(Path(settings.home) / "run" / "cped.lock")
    handle = None
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid) if pid is not None else None
    if handle is None:
        if _answers(session):
            message = f"the daemon at {settings.url} keeps its state elsewhere, not in {settings.home}"
            raise Conflict.of("NOT_OURS", message, hint="set $PCLOUD_HOME to the state folder of that daemon")
        out.done("no daemon runs")
        return
    try:
        try:
            session.client.shutdown(engines=not keep_engines, guests=guests)
        except PcloudError as error:
            if isinstance(error, Unreachable):
                # It is starting or ending, or it hangs: the signal for an orderly end reaches it all the same.
                out.note(
                    f"the daemon does not answer at {settings.url}; asking process {pid} to end. Its engines go on"
                )
            elif error.code != STANDBY:
                raise
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], timeout)[0]:
            message = f"the daemon (process {pid}) has not ended after {timeout:g} s"
            raise TimedOut.of("TIMED_OUT", message, hint=f"see its log in {settings.home}/log")
    finally:
        os.close(handle)
    out.done("the daemon has ended" + ("" if guests else "; guests go on"))


@click.command(cls=Command, examples=[("pcloud doctor", ""), ("pcloud doctor -o json", "for programs")])
@output_option
@pass_session
def doctor(session: Session, output: str) -> None:
    """Say what this machine can and can not do, and how to mend it. Exit code 1 when something is missing."""
    from pcloud.client.errors import Unreachable
    from pcloud.model.errors import PcloudError

    checks: list[Check] = _local_checks(session)
    reached = True
    try:
        checks += session.client.doctor()
    except Unreachable as error:
        reached = False
        checks.append(_failed_check(error))
    except PcloudError as error:
        checks.append(_failed_check(error))
    if output != "table":
        out.document(checks, output)
    else:
        rows = ((one.check, one.state, one.detail, one.hint) for one in checks)
        out.table(("CHECK", "STATE", "DETAIL", "HOW TO MEND IT"), rows, empty="")
    if not reached:
        click.get_current_context().exit(Exit.UNREACHABLE)
    if any(one.state == "missing" for one in checks):
        click.get_current_context().exit(Exit.FAILED)


def _failed_check(error: PcloudError) -> Check:
    from pcloud.client.records import Check

    problem = error.problems[0]
    return Check(check="daemon", state="missing", detail=problem.message, hint=problem.hint)


def _local_checks(session: Session) -> list[Check]:
    """What can be judged without the daemon: the programs around it."""
    from pcloud.client.records import Check

    settings = session.client.settings
    if not settings.loopback:
        return []
    home = Path(settings.home)
    root = os.geteuid() == 0
    token = home / "token"
    checks = [
        Check(
            check="user",
            state="ok" if root else "warning",
            detail="root" if root else f"user id {os.geteuid()}",
            hint="" if root else "the daemon must run as root to run LXC guests; the other commands need a token only",
        )
    ]
    if settings.token_source:
        checks.append(Check(check="token", state="ok", detail=f"from {settings.token_source}"))
    else:
        hint = f"the daemon writes one to {token} at its first start; or set $PCLOUD_TOKEN"
        checks.append(Check(check="token", state="warning", detail="none was found", hint=hint))
    return checks


@click.command(cls=Command, examples=[("pcloud version", ""), ("pcloud version -o json", "")])
@output_option
@pass_session
def version(session: Session, output: str) -> None:
    """Print the versions of this program and of the daemon."""
    from importlib.metadata import version as installed

    from pcloud.client.errors import Unreachable

    ours = installed("pacemaker-cloud")
    try:
        theirs = session.client.version()
    except Unreachable:
        theirs = None
    if output != "table":
        daemon = {"version": theirs.version, "api": theirs.api, "host": theirs.host} if theirs else None
        out.document({"client": ours, "daemon": daemon}, output)
        return
    out.done(f"pcloud {ours}")
    out.done(f"daemon {theirs.version} (API {theirs.api}, host {theirs.host})" if theirs else "daemon: none answers")


@click.command(
    cls=Command,
    short_help="Print the Tab completion of a shell.",
    examples=[
        ("pcloud completion bash > /etc/bash_completion.d/pcloud", ""),
        ("pcloud completion zsh > /usr/local/share/zsh/site-functions/_pcloud", ""),
        ("pcloud completion fish > ~/.config/fish/completions/pcloud.fish", ""),
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes the Tab key complete commands and names, for a shell."""
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three shells"
    click.echo(kind(root.command, {}, "pcloud", "_PCLOUD_COMPLETE").source())


def _local(session: Session) -> Settings:
    """The settings, when they mean this machine; else a usage error."""
    settings = session.client.settings
    if not settings.loopback:
        raise click.UsageError(f"{settings.url} is another machine; the daemon is started and ended on its own")
    return settings


def _answers(session: Session) -> bool:
    """Whether a daemon answers and is well."""
    from pcloud.client.errors import Unreachable

    try:
        return session.client.healthy()
    except Unreachable:
        return False


def _standing_by(session: Session) -> str:
    """Why the daemon stands by; empty when it does not."""
    from pcloud.model.errors import PcloudError

    try:
        session.client.version()
    except PcloudError as error:
        return error.problems[0].message if error.code == STANDBY else ""
    return ""


def _is_of_this_home(session: Session) -> None:
    """Conflict when the daemon that answers keeps its state elsewhere, which it does when it does not know our token."""
    from pcloud.model.errors import Conflict, PcloudError

    settings = session.client.settings
    try:
        session.client.version()
    except PcloudError as error:
        if error.code == STANDBY:
            return  # it knows no tokens
        if error.code not in ("UNAUTHORIZED", "FORBIDDEN", "NO_TOKEN"):
            raise
        raise Conflict.of(
            "OTHER_DAEMON",
            f"another daemon answers at {settings.url}: it does not know the token of {settings.home}",
            hint="choose another address with $PCLOUD_URL, or name that daemon's folder with $PCLOUD_HOME",
        ) from error


def _program() -> str:
    """Where the daemon's program is: beside ours, else on PATH."""
    from pcloud.model.errors import Unavailable

    beside = Path(sys.argv[0]).absolute().parent / DAEMON
    if beside.is_file() and os.access(beside, os.X_OK):
        return str(beside)
    for place in (Path(sys.executable).parent, None):
        if found := shutil.which(DAEMON, path=str(place) if place else None):
            return found
    raise Unavailable.of(
        "NO_DAEMON_PROGRAM", f"{DAEMON} is not installed", hint="in a checkout `make setup` installs it"
    )


def _make(folder: Path) -> None:
    """Make a folder of the state, for its owner only."""
    from pcloud.model.errors import Unavailable

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        _unwritable(folder, error)
    if not os.access(folder, os.W_OK):
        raise Unavailable.of("NOT_WRITABLE", f"{folder} can not be written", hint="run as root, or set $PCLOUD_HOME")


def _unwritable(path: Path, error: OSError) -> NoReturn:
    from pcloud.model.errors import Unavailable

    hint = "run as root, or set $PCLOUD_HOME to a folder of yours"
    raise Unavailable.of("NOT_WRITABLE", f"{path} can not be written: {error.strerror}", hint=hint) from None


def _running_pid(lock: Path) -> int | None:
    """The process of this home's daemon, or None. The lock, not the file, says that it lives."""
    try:
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read(32))
    except (OSError, ValueError):
        return None
    return None


def _tail(log: Path, beginning: int) -> str:
    """The last lines that this start added to the log."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(beginning, end - 16384))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"(it can not be read: {error.strerror})"
    return "\n".join(lines[-LOG_TAIL:]) or "(nothing)"
