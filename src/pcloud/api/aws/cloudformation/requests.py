"""What requests have in common: the stack, template, policy and resource that they name, and the table of operations."""

from __future__ import annotations

import fnmatch
import functools
from typing import Any

import msgspec

from pcloud.api.aws.cloudformation.fetching import in_store, nested_templates, text_at
from pcloud.api.aws.cloudformation.unoffered import refuse
from pcloud.api.aws.operations import Caller, Input, Operation, Output, Table
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.policy import MAX_POLICY, read_policy
from pcloud.stacks.records import ResourceRecord, Source, StackRecord


class _Table(Table):
    """Operations that refuse first what none of them does."""

    def operation(self, function: Operation) -> Operation:
        """Enter a function."""

        @functools.wraps(function)
        async def checked(manager: StackManager, given: Input, caller: Caller) -> Output:
            refuse(given)
            return await function(manager, given, caller)

        return super().operation(checked)


OPERATIONS = _Table()
"""CloudFormation's own; the modules of this package enter theirs."""


def find(manager: StackManager, name: str, caller: Caller, *, aside: bool = False) -> StackRecord:
    """Return the stack that a caller may see; with `aside` also one of which something can not be read."""
    stack = manager.get(name, aside=aside)
    if caller.stack and caller.stack not in (stack.id, stack.parent, stack.root):
        raise QueryError("AccessDenied", f"User {caller.user} is not authorized to see this stack", 403)
    return stack


async def source_of_request(manager: StackManager, given: Input, stack: StackRecord | None = None) -> Source:
    """Return the source that a request describes; parts not given are taken from the stack. Templates that are named by URL
    are read from the object store, the nested ones too."""
    body = given.get("TemplateBody")
    if body is None and given.get("TemplateURL"):
        body = await text_at(manager, "TemplateURL", given["TemplateURL"])
    previous = stack.source if stack is not None else None
    if body is None:
        if not given.get("UsePreviousTemplate") or previous is None:
            raise QueryError("ValidationError", "Either Template URL or Template Body must be specified.")
        body = previous.template
    parameters: dict[str, Any] = {}
    for item in given.get("Parameters") or []:
        key = item.get("ParameterKey", "")
        if item.get("UsePreviousValue"):
            if previous is not None and key in previous.parameters:
                parameters[key] = previous.parameters[key]
        else:
            parameters[key] = item.get("ParameterValue", "")
    tags = given.get("Tags")
    source = Source(
        template=body,
        parameters=parameters,
        files={} if previous is None else {n: t for n, t in previous.files.items() if not in_store(manager, n)},
        registry=previous.registry if previous else {},
        tags={tag["Key"]: tag["Value"] for tag in tags} if tags is not None else (previous.tags if previous else {}),
        capabilities=tuple(given.get("Capabilities") or ()),
    )
    nested = await nested_templates(manager, source)
    source = msgspec.structs.replace(source, files={**source.files, **nested}) if nested else source
    _check_types(manager, source, given.get("ResourceTypes"))
    return source


def _check_types(manager: StackManager, source: Source, allowed: list[str] | None) -> None:
    """QueryError when a template has other types than a request permits, by name or as `AWS::EC2::*`."""
    if allowed is None:
        return
    for name, resource in manager.reader.template(source).resources.items():
        if not any(fnmatch.fnmatchcase(resource.type, pattern) for pattern in allowed):
            raise QueryError(
                "ValidationError", f"Resource {name} is of type {resource.type}, which ResourceTypes does not permit"
            )


async def policy_of_request(manager: StackManager, given: Input, key: str = "StackPolicyBody") -> dict[str, Any] | None:
    """Return the policy that a request brings, or names by a URL of the object store; None without one."""
    url = key.removesuffix("Body") + "URL"
    text = given.get(key)
    if not text and given.get(url):
        text = await text_at(manager, url, given[url], MAX_POLICY)
    return read_policy(text) if text else None


def resource_of(manager: StackManager, stack: StackRecord, name: str) -> ResourceRecord:
    record = manager.current(stack).get(name)
    if record is None:
        raise QueryError("ValidationError", f"Resource {name} does not exist for stack {stack.name}")
    return record
