"""The guest that a load balancer runs in."""

from __future__ import annotations

from pcloud.stacks.types.base import Context


async def make(context: Context) -> None:
    """Make the guest of a balancer and wait until it runs."""
    raise NotImplementedError


async def remove(context: Context) -> None:
    """Remove the guest of a balancer."""
    raise NotImplementedError
