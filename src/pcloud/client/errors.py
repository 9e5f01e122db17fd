"""What can go wrong between a client and the daemon, in the one tree of errors (`pcloud.model.errors`).

`Refused` carries the daemon's own problems and HTTP status; the others never came from the daemon at all.
"""

from __future__ import annotations

from pcloud.model.errors import PcloudError, Problem


class Refused(PcloudError):
    """The daemon answered, and refused. `status` is the HTTP status of this answer."""

    def __init__(self, status: int, *problems: Problem) -> None:
        super().__init__(*problems)
        self.status = status


class Unreachable(PcloudError):
    """No daemon answers at the address (or it stopped answering in the middle)."""

    status = 503


class BadReply(PcloudError):
    """Something answers at the address, but what it says is not this API."""

    status = 502


class BadSettings(PcloudError):
    """The address or token given to the client can not be used."""

    status = 400


class TimedOut(PcloudError):
    """What was waited for did not happen in time; it may still happen."""

    status = 504
