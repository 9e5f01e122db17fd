"""Stack policies: which resources an update may change. Pure."""

from __future__ import annotations

import fnmatch
import json
from typing import Any

from pcloud.model.errors import InvalidDocument, PcloudError
from pcloud.stacks.records import ResourceRecord

MAX_POLICY = 16 * 1024
ALLOW_ALL: dict[str, Any] = {
    "Statement": [{"Effect": "Allow", "Action": "Update:*", "Principal": "*", "Resource": "*"}]
}
"""What holds for a stack without a policy, written out."""


def read_policy(text: str) -> dict[str, Any]:
    """Read a stack policy; InvalidDocument when it is none."""
    try:
        policy = json.loads(text) if len(text) <= MAX_POLICY else None
    except (ValueError, RecursionError):
        policy = None
    statements = policy.get("Statement") if isinstance(policy, dict) else None
    if not isinstance(statements, list) or not all(isinstance(item, dict) for item in statements):
        raise InvalidDocument(
            PcloudError.of("BAD_POLICY", "a stack policy is JSON with a list 'Statement'").problems[0]
        )
    for statement in statements:
        if statement.get("Effect") not in ("Allow", "Deny"):
            raise InvalidDocument(
                PcloudError.of("BAD_POLICY", "the Effect of a statement is Allow or Deny").problems[0]
            )
    assert isinstance(policy, dict)
    return policy


def _list(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [] if value is None else [str(value)]


def _matches(statement: dict[str, Any], record: ResourceRecord, action: str) -> bool:
    if "NotAction" in statement:
        if any(fnmatch.fnmatchcase(action, pattern) for pattern in _list(statement["NotAction"])):
            return False
    elif not any(fnmatch.fnmatchcase(action, pattern) for pattern in _list(statement.get("Action"))):
        return False
    name = f"LogicalResourceId/{record.name}"
    if "NotResource" in statement:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in _list(statement["NotResource"])):
            return False
    elif not any(pattern == "*" or fnmatch.fnmatchcase(name, pattern) for pattern in _list(statement.get("Resource"))):
        return False
    condition = statement.get("Condition")
    if isinstance(condition, dict):
        for operator, tests in condition.items():
            wanted = _list(tests.get("ResourceType")) if isinstance(tests, dict) else []
            like = operator == "StringLike"
            if not any(fnmatch.fnmatchcase(record.type, item) if like else record.type == item for item in wanted):
                return False
    return True


def denied(policy: dict[str, Any] | None, record: ResourceRecord, action: str) -> str:
    """Return the sentence of a refusal, or an empty string. What no statement allows is denied, and Deny wins."""
    if not policy:
        return ""
    effects = [item["Effect"] for item in policy["Statement"] if _matches(item, record, action)]
    if "Deny" in effects or "Allow" not in effects:
        return f"Action denied by stack policy: {action} of {record.name} ({record.type})"
    return ""
