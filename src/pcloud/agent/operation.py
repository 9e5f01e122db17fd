"""One run of an agent's program: start it, bound it in time and output, and say how it ended.

Owns: the child's pipes and its process group until it has ended. Concurrency: callbacks of the loop only; `done` is called
exactly once, always from the loop and never from inside the constructor.
"""

from __future__ import annotations

import os

from pcloud.agent import system
from pcloud.agent.loop import READ, Loop, Timer, log

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

# OCF exit codes, and how an operation ended (`pcmk_exec_*` upstream)
OK, ERROR, INVALID_PARAM, UNIMPLEMENTED, NO_PRIVILEGE, NOT_INSTALLED, NOT_CONFIGURED, NOT_RUNNING, PROMOTED = range(9)
DONE, CANCELLED, TIMEOUT, NOT_SUPPORTED, FAILED, FAILED_HARD, FAILED_FATAL, ABSENT = range(8)

MAX_OUTPUT = 256 * 1024
"""Bytes kept of standard output: the first ones (meta-data must be whole)."""
MAX_ERRORS = 64 * 1024
"""Bytes kept of standard error: the last ones (the exit reason comes last)."""
REASON_PREFIX = "ocf-exit-reason:"
_KILL_GRACE = 5.0


class Result:
    """How one run ended."""

    __slots__ = ("errors", "output", "rc", "reason", "status")

    def __init__(self, rc: int, status: int = DONE, reason: str = "", output: str = "", errors: str = "") -> None:
        self.rc = rc
        self.status = status
        self.reason = reason
        self.output = output
        self.errors = errors


def exit_reason(errors: str) -> str:
    """Return the last exit reason that an OCF agent wrote, at most 128 characters."""
    start = errors.rfind(REASON_PREFIX)
    return errors[start + len(REASON_PREFIX) :].split("\n", 1)[0][:128] if start >= 0 else ""


def failed_to_start(path: str, error: OSError) -> Result:
    """Return the result for a program that could not be run at all."""
    import errno

    reason = f"{path}: {os.strerror(error.errno or 0)}"
    if error.errno in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ENOEXEC):
        return Result(NOT_INSTALLED, DONE, reason)  # "done" as upstream, which finds out in the forked child
    if error.errno in (errno.EACCES, errno.EPERM):
        return Result(NO_PRIVILEGE, DONE, reason)
    return Result(ERROR, FAILED, os.strerror(error.errno or 0))


class Child:
    """A running program in a process group of its own."""

    __slots__ = (
        "_done",
        "_errors",
        "_leave_group",
        "_loop",
        "_output",
        "_timed_out",
        "_timeout",
        "_timer",
        "killed",
        "pid",
        "what",
    )

    def __init__(
        self,
        loop: Loop,
        argv: list[str],
        environment: dict[str, str],
        timeout: float,
        done: Callable[[Result], None],
        *,
        leave_group: bool = False,
        user: int | None = None,
    ) -> None:
        """Start the program; OSError when that is impossible. `timeout` in seconds, 0 for none. With `leave_group` a
        time-out kills the program alone and not its group (upstream does that for `on-fail=block`)."""
        self._loop = loop
        self._done = done
        self._leave_group = leave_group
        self._timed_out = self.killed = False
        self._timeout = timeout
        self.what = " ".join(argv[:2])
        output, output_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        errors, errors_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(output_write, True)
        os.set_blocking(errors_write, True)
        if user is not None:
            argv = ["/usr/bin/setpriv", f"--reuid={user}", "--clear-groups", "--", *argv]
        try:
            self.pid = os.posix_spawn(
                argv[0],
                argv,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output_write, 1),
                    (os.POSIX_SPAWN_DUP2, errors_write, 2),
                ],
                setpgroup=0,
                setsigmask=[],
                setsigdef=[system.SIGPIPE, system.SIGCHLD, system.SIGINT, system.SIGTERM, system.SIGHUP],
            )
        except OSError:
            os.close(output)
            os.close(errors)
            raise
        finally:
            os.close(output_write)
            os.close(errors_write)
        self._output = _Collector(loop, output, MAX_OUTPUT, keep_last=False)
        self._errors = _Collector(loop, errors, MAX_ERRORS, keep_last=True)
        self._timer: Timer | None = loop.later(timeout, self._on_timeout) if timeout > 0 else None
        loop.on_exit(self.pid, self._on_exit)

    def kill(self) -> None:
        """End the program and its group at once; `done` follows."""
        self.killed = True
        try:
            if self._leave_group and self._timed_out:
                os.kill(self.pid, system.SIGKILL)
            else:
                os.killpg(self.pid, system.SIGKILL)
        except ProcessLookupError:
            pass  # it ended in this moment; the loop will tell

    def _on_timeout(self) -> None:
        if not self._timed_out:
            self._timed_out = True
            self.kill()
            self._timer = self._loop.later(_KILL_GRACE, self._on_timeout)
            return
        # Not even SIGKILL ended it (a hung file system, say): report, and let the loop reap it some day.
        log(4, f"{self.what}[{self.pid}] does not end after SIGKILL")
        self._finish(Result(ERROR, TIMEOUT, "Process did not exit within specified timeout"))

    def _on_exit(self, status: int) -> None:
        if self._done is _nobody:
            return
        if self._timed_out:
            self._finish(Result(ERROR, TIMEOUT, f"did not complete within {readable(self._timeout)}"))
        elif os.WIFSIGNALED(status):
            name = system.signal_name(os.WTERMSIG(status))
            self._finish(
                Result(
                    OK if self.killed else ERROR, CANCELLED if self.killed else FAILED, f"interrupted by {name} signal"
                )
            )
        else:
            self._finish(Result(os.WEXITSTATUS(status)))

    def _finish(self, result: Result) -> None:
        done, self._done = self._done, _nobody
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        result.output = self._output.close()
        result.errors = self._errors.close()
        done(result)


def _nobody(_result: Result) -> None:
    """Stands where the callback was after it has been called."""


def readable(seconds: float) -> str:
    """Return a time-out as upstream writes it: `20s`, `1500ms`, `2m`."""
    if seconds != int(seconds):
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(int(seconds), 60)
    return (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest or not minutes else "")


class _Collector:
    """Reads one pipe and keeps a bounded part of what came."""

    __slots__ = ("_data", "_fd", "_keep_last", "_limit", "_loop")

    def __init__(self, loop: Loop, fd: int, limit: int, *, keep_last: bool) -> None:
        self._loop = loop
        self._fd = fd
        self._limit = limit
        self._keep_last = keep_last
        self._data = bytearray()
        loop.watch(fd, READ, self._on_ready)

    def _on_ready(self, _events: int) -> None:
        if not self._read():
            self._close()

    def _read(self) -> bool:
        """Read what is there; return whether more may come."""
        for _ in range(16):  # then let others have their turn
            try:
                part = os.read(self._fd, 65536)
            except BlockingIOError:
                return True
            if not part:
                return False
            data = self._data
            if self._keep_last:
                data += part
                if len(data) > self._limit:
                    del data[: len(data) - self._limit]
            elif len(data) < self._limit:
                data += part[: self._limit - len(data)]
        return True

    def _close(self) -> None:
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1

    def close(self) -> str:
        """Read the rest, close, and return the text."""
        if self._fd >= 0:
            self._read()
            self._close()
        text = self._data.decode("utf-8", "replace")
        self._data = bytearray()
        return text
