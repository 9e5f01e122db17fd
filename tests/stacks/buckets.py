"""Stacks of buckets and containers: what they are written from, and the end that an operation on one must come to."""

from __future__ import annotations

import json
from typing import Any

from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord


async def close(manager: StackManager) -> None:
    """Close it, and its platform's object store."""
    await manager.close()
    await manager.platform.objects.close()


def cfn(outputs: dict[str, Any] | None = None, /, **resources: tuple[str, dict[str, Any]]) -> Source:
    """A template of CloudFormation, of types and properties."""
    body = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {name: {"Type": kind, "Properties": properties} for name, (kind, properties) in resources.items()},
        "Outputs": {name: {"Value": value} for name, value in (outputs or {}).items()},
    }
    return Source(template=json.dumps(body))


def bucket(**properties: Any) -> tuple[str, dict[str, Any]]:
    return "AWS::S3::Bucket", properties


def container(**properties: Any) -> tuple[str, dict[str, Any]]:
    return "OS::Swift::Container", {key.replace("_", "-"): value for key, value in properties.items()}


async def made(manager: StackManager, source: Source, end: str = "CREATE_COMPLETE", name: str = "Shop") -> StackRecord:
    stack = await manager.create(name, source)
    return await ended(manager, stack, end)


async def ended(manager: StackManager, stack: StackRecord, end: str) -> StackRecord:
    await manager.wait(stack)
    assert stack.status == end, (stack.reason, [record.reason for record in manager.records(stack)])
    return stack


async def deleted(manager: StackManager, stack: StackRecord, end: str = "DELETE_COMPLETE") -> None:
    await manager.delete(stack)
    await ended(manager, stack, end)
