"""`python -m pcloud.simulator`: one request (msgpack) on standard input, one answer (JSON) on standard output.

The daemon runs a dry run or a replay in a process of its own through this; `Request` and `Answer` are what crosses.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from pcloud.model.deployable import Deployable
from pcloud.model.errors import PcloudError, Problem
from pcloud.simulator.dryrun import Report, simulate
from pcloud.simulator.replay import Verdict, replay


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: a dry run when there is a snapshot, else the replay of decision records."""

    snapshot: bytes = b""
    faults: list[str] = []
    changes: dict[str, Deployable] = {}
    records: list[dict[str, Any]] = []


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One of these."""

    report: Report | None = None
    verdicts: tuple[Verdict, ...] = ()
    problems: tuple[Problem, ...] = ()
    status: int = 200


def main() -> int:
    """Answer one request."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    try:
        if request.snapshot:
            answer = Answer(report=simulate(request.snapshot, request.faults, request.changes))
        else:
            answer = Answer(verdicts=tuple(replay(request.records)))
    except PcloudError as error:
        answer = Answer(problems=error.problems, status=error.status)
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
