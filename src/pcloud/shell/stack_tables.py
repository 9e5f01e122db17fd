"""The tables of stacks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pcloud.shell.output import table
from pcloud.shell.text import clock

if TYPE_CHECKING:
    from pcloud.client.stacks import Stack


def stacks(found: Sequence[Stack]) -> None:
    """Print a list of stacks."""
    now = time.time()
    rows = (
        (
            one["StackName"],
            one["StackStatus"],
            clock(one.get("LastUpdatedTime") or one["CreationTime"], now=now),
            one.get("StackStatusReason") or "",
        )
        for one in found
    )
    table(("NAME", "STATE", "SINCE", "REASON"), rows, empty="there are no stacks")


def resources(stack: Stack) -> None:
    """Print a stack and, under it, its resources."""
    now = time.time()
    head = (
        stack["StackName"],
        stack["StackStatus"],
        "",
        "",
        clock(stack.get("LastUpdatedTime") or stack["CreationTime"], now=now),
        stack.get("StackStatusReason") or "",
    )
    rows = [head] + [
        (
            f"  {one['LogicalResourceId']}",
            one["ResourceStatus"],
            one["ResourceType"],
            one.get("PhysicalResourceId") or "",
            clock(one["Timestamp"], now=now),
            one.get("ResourceStatusReason") or "",
        )
        for one in stack["Resources"]
    ]
    table(("NAME", "STATE", "TYPE", "ID", "SINCE", "REASON"), rows, empty="")


def contents(stack: Stack) -> None:
    """Print a stack, its resources and its outputs."""
    resources(stack)
    if stack["Outputs"]:
        click.echo()
    outputs(stack)


def outputs(stack: Stack) -> None:
    """Print a stack's outputs; nothing where it has none."""
    rows = [(one["OutputKey"], one.get("OutputValue") or "", one.get("Description") or "") for one in stack["Outputs"]]
    if rows:
        table(("OUTPUT", "VALUE", "DESCRIPTION"), rows, empty="")


def events(found: Sequence[dict[str, Any]]) -> None:
    """Print a stack's events."""
    now = time.time()
    rows = (
        (
            clock(one["Timestamp"], now=now),
            one["LogicalResourceId"],
            one["ResourceStatus"],
            one["ResourceType"],
            one.get("ResourceStatusReason") or "",
        )
        for one in found
    )
    table(("TIME", "NAME", "STATE", "TYPE", "REASON"), rows, empty="nothing happened yet")
