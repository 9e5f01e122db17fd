"""Waiting for stacks: what happens is shown as it happens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pcloud.client.api import Client
from pcloud.client.errors import TimedOut
from pcloud.client.stacks import Stack
from pcloud.model.errors import Problem
from pcloud.shell import wait
from pcloud.shell.output import done
from pcloud.shell.text import clean, clock


def newest(client: Client, name: str) -> str:
    """Return the id of a stack's newest event, empty when there is none."""
    found = client.stacks.events(name)
    return str(found[-1]["EventId"]) if found else ""


def follow(client: Client, stack: Stack, *, after: str, timeout: float) -> Stack:
    """Show what happens to a stack until nothing is under way; return it then.

    Failed when it did not end as it was meant to, with what failed first; TimedOut after `timeout` seconds.
    """
    name, identity = stack["StackName"], stack["StackId"].rsplit("/", 1)[-1]
    deadline = time.monotonic() + timeout
    patience = wait.Patience()
    failures: list[Problem] = []
    with wait.view() as show:
        while True:
            # The state is asked for first: whatever led to it is among the events then.
            now = patience.ask(lambda: client.stacks.get(identity))
            told = patience.ask(lambda: client.stacks.events(identity, after=after)) if now is not None else None  # noqa: B023
            for event in told or []:
                show.say(_line(event))
                after = event["EventId"]
                failures += _failure(event, name)
            if now is not None and told is not None and not now["StackStatus"].endswith("_IN_PROGRESS"):
                break
            for job in wait.builds(client, patience):
                show.job(job)
            if time.monotonic() >= deadline:
                raise TimedOut.of(
                    "TIMED_OUT",
                    f"stack {name} is not done after {timeout:g} s",
                    hint=f"it goes on: `pcloud stack show {name}` shows where it is",
                )
            time.sleep(wait.INTERVAL)
    status, reason = now["StackStatus"], now.get("StackStatusReason") or ""
    if "ROLLBACK" in status or status.endswith("FAILED"):
        why = Problem(code="STACK_FAILED", message=f"stack {name} is {status}" + (f": {reason}" if reason else ""))
        raise wait.Failed(why, *failures)
    done(f"{name}: {status}")
    return now


def _line(event: Mapping[str, Any]) -> str:
    reason = event.get("ResourceStatusReason") or ""
    when = clock(event["Timestamp"], now=time.time())
    line = f"{when}  {event['LogicalResourceId']}: {event['ResourceStatus']}" + (f" ({reason})" if reason else "")
    return clean(line)


def _failure(event: Mapping[str, Any], stack: str) -> list[Problem]:
    """What an event says of a resource that failed; nothing of those that were stopped because another one failed."""
    reason = event.get("ResourceStatusReason") or ""
    name, status = event["LogicalResourceId"], event["ResourceStatus"]
    if not status.endswith("_FAILED") or name == stack or "cancelled" in reason.lower():
        return []
    return [Problem(code="RESOURCE_FAILED", path=name, message=f"{status}: {reason}" if reason else status)]
