"""The exit codes of `pcloud` and `pcloudsh`: one table, from which the documentation is made."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcloud.model.errors import PcloudError


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    TIMED_OUT = 6
    NOT_PERMITTED = 7
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "it was done",
    Exit.FAILED: "it was refused (a document with errors, say), or what was waited for can not happen",
    Exit.USAGE: "the command line is wrong; nothing was asked of the daemon",
    Exit.NOT_FOUND: "a thing that was named does not exist",
    Exit.CONFLICT: "the thing exists, but its state does not allow it",
    Exit.UNREACHABLE: "no daemon answers; `pcloud up` starts one",
    Exit.TIMED_OUT: "what was waited for did not happen in time; it may still happen",
    Exit.NOT_PERMITTED: "no token, a wrong one, or one whose role does not allow it",
    Exit.INTERRUPTED: "interrupted with Ctrl-C; what was asked for goes on in the daemon",
}


def exit_code(error: PcloudError) -> Exit:
    """Return the exit code that an error stands for."""
    from pcloud.client.errors import BadReply, BadSettings, TimedOut, Unreachable
    from pcloud.shell.verbs import BadCommand

    match error:
        case Unreachable():
            return Exit.UNREACHABLE
        case TimedOut():
            return Exit.TIMED_OUT
        case BadSettings() | BadCommand():
            return Exit.USAGE
        case BadReply():
            return Exit.FAILED
    by_status = {401: Exit.NOT_PERMITTED, 403: Exit.NOT_PERMITTED, 404: Exit.NOT_FOUND, 409: Exit.CONFLICT}
    return by_status.get(error.status, Exit.FAILED)
