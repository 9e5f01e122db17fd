"""What the operations of all services share: who asks, and the table in which an operation is found by its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager

Output = Mapping[str, Any]
Input = Mapping[str, Any]

STACK_KEY_OPERATIONS = ("DescribeStackResource", "DescribeStackResources", "SignalResource", "PutMetricData")
"""What the tools in a guest may do with a key of their stack."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks."""

    user: str
    role: str
    stack: str = ""
    """When set: may read and signal this stack's resources only."""

    def allow(self, name: str) -> None:
        """QueryError when this caller may not do that at all."""
        reads = name.startswith(("Describe", "List", "Get", "Validate", "Estimate"))
        if self.stack and name not in STACK_KEY_OPERATIONS:
            raise QueryError("AccessDenied", f"User {self.user} is not authorized to perform {name}", 403)
        if self.role == "viewer" and not reads:
            raise QueryError("AccessDenied", f"A viewer is not authorized to perform {name}", 403)


Operation = Callable[[StackManager, Input, Caller], Awaitable[Output]]


class Table(dict[str, Operation]):
    """The operations of one service by their names on the wire."""

    def operation(self, function: Operation) -> Operation:
        """Enter a function: `describe_stacks` is DescribeStacks."""
        self["".join(part.capitalize() for part in function.__name__.split("_"))] = function
        return function
