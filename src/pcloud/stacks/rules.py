"""What a CloudFormation template demands beside its resources: rules over its parameters, and sections of others. Pure.

Judged when a client brings a template (create, update, change set, plan, validation), and not again while it is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcloud.stacks.documents import Path
from pcloud.stacks.functions.evaluation import FunctionError, Scope
from pcloud.stacks.template import Dialect

_REFUSED: Mapping[str, str] = {
    "Hooks": "hooks run deployments of AWS CodeDeploy, which is not to be had here",
    "Globals": "Globals belong to the transform AWS::Serverless, which can not be run here",
}
_KEYS = frozenset({"RuleCondition", "Assertions"})
_ASSERTION_KEYS = frozenset({"Assert", "AssertDescription"})


def judge_sections(scope: Scope) -> None:
    """Note the sections that would have no effect."""
    if scope.template.dialect is Dialect.CFN:
        for name, sentence in _REFUSED.items():
            if name in scope.template.document.data:
                scope.problems.append(scope.template.problem("REFUSED", f"'{name}' is refused: {sentence}", (name,)))


def judge_rules(scope: Scope) -> None:
    """Note every assertion that does not hold, of the rules whose condition does. What a missing value decides passes."""
    for name, rule in scope.template.rules.items():
        path: Path = ("Rules", name)
        if not isinstance(rule, dict) or rule.keys() - _KEYS or not isinstance(rule.get("Assertions"), list):
            _bad(scope, "a rule is a map of Assertions (a list) and RuleCondition", path)
            continue
        if "RuleCondition" in rule:
            holds = _truth(scope, rule["RuleCondition"], (*path, "RuleCondition"))
            if holds is False:
                continue
        else:
            holds = True
        for index, assertion in enumerate(rule["Assertions"]):
            where: Path = (*path, "Assertions", index)
            if not isinstance(assertion, dict) or assertion.keys() - _ASSERTION_KEYS or "Assert" not in assertion:
                _bad(scope, "an assertion is a map of Assert and AssertDescription", where)
                continue
            kept = _truth(scope, assertion["Assert"], (*where, "Assert"))
            if kept is False and holds is True:
                described = str(assertion.get("AssertDescription") or "its assertion does not hold")
                scope.problems.append(scope.template.problem("RULE", f"rule '{name}': {described}", where))


def _truth(scope: Scope, node: Any, path: Path) -> Any:
    """Return True, False, or what is neither yet."""
    before, scope.used = scope.used, set()
    try:
        value = scope.truth(node, path)
    except FunctionError as problem:
        scope.note(problem, path)
        return None
    finally:
        named, scope.used = scope.used, before
    if named:
        _bad(scope, f"a rule is about parameters: it can not refer to the resource '{min(named)}'", path)
        return None
    return value


def _bad(scope: Scope, sentence: str, path: Path) -> None:
    scope.problems.append(scope.template.problem("BAD_RULE", sentence, path))
