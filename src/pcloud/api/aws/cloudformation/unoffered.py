"""What requests may say that is not done here: refused by name, with what to do instead. Nothing is ignored. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pcloud.api.aws.query import QueryError


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda given: given in values


def _monitors(given: Mapping[str, Any]) -> bool:
    return bool(given.get("RollbackTriggers") or given.get("MonitoringTimeInMinutes"))


def _express(given: Mapping[str, Any]) -> bool:
    return given.get("Mode") == "EXPRESS" or bool(given.get("DisableRollback"))


_REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "RollbackConfiguration": (
        _monitors,
        "no alarms are watched while a stack changes; let resources tell that they work by a WaitCondition",
    ),
    "RoleARN": (
        bool,
        "the daemon works with its own rights; tokens and access keys say who may change stacks. Leave it out",
    ),
    "NotificationARNs": (
        bool,
        "there is no notification service; ask DescribeStackEvents, and let the daemon's sinks tell what becomes of guests",
    ),
    "DeletionMode": (
        _is("FORCE_DELETE_STACK"),
        "name what can not be deleted in RetainResources, once the stack is in DELETE_FAILED state",
    ),
    "RetainExceptOnCreate": (
        _is(False),
        "what a failed operation newly made is removed again, whatever its DeletionPolicy; say true or leave it out",
    ),
    "ImportExistingResources": (_is(True), "what exists can not be taken over; let the stack make it"),
    "ResourcesToImport": (bool, "what exists can not be taken over; let the stack make it"),
    "DeploymentMode": (bool, "what drifted is not put back by a change set; update the stack with other properties"),
    "DeploymentConfig": (_express, "stacks are deployed in one mode, STANDARD; say DisableRollback by itself"),
    "DisableValidation": (_is(True), "a template is always validated before anything starts; leave it out"),
    "ForceRollback": (_is(True), "name in ResourcesToSkip what can not be turned back"),
    "StackSetName": (bool, "there are no stack sets; name a stack"),
    "CallAs": (_is("DELEGATED_ADMIN"), "there is one account; leave it out"),
}


def refuse(given: Mapping[str, Any]) -> None:
    """QueryError for the first member of a request that asks for what is not done here."""
    for name, (asks, instead) in _REFUSED.items():
        if name in given and asks(given[name]):
            raise QueryError("ValidationError", f"{name} is refused: {instead}")


def refused_members() -> frozenset[str]:
    """Return the names of members of which some values are refused; what else they may say is what happens anyway."""
    return frozenset(_REFUSED)
