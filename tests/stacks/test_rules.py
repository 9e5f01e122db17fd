"""Rules of CloudFormation templates, and the sections that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pcloud.model.errors import InvalidDocument, Problem
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord

PARAMETERS = {
    "Stage": {"Type": "String", "Default": "test"},
    "Size": {"Type": "String", "Default": "small"},
    "Zones": {"Type": "CommaDelimitedList", "Default": "a,b"},
    "First": {"Type": "AWS::EC2::VPC::Id", "Default": "vpc-1"},
    "Others": {"Type": "List<AWS::EC2::VPC::Id>", "Default": "vpc-2,vpc-3"},
}
RESOURCES = {"A": {"Type": "OS::Heat::TestResource"}}
LARGE = {
    "RuleCondition": {"Fn::Equals": [{"Ref": "Stage"}, "production"]},
    "Assertions": [
        {"Assert": {"Fn::Contains": [["large", "huge"], {"Ref": "Size"}]}, "AssertDescription": "production is large"}
    ],
}


def source(rules: Any, parameters: dict[str, Any] | None = None, **more: Any) -> Source:
    body = {"Parameters": PARAMETERS, "Rules": rules, "Resources": RESOURCES, **more}
    return Source(template=json.dumps(body), parameters=parameters or {})


def problems(manager: StackManager, given: Source, *, complete: bool = True) -> list[Problem]:
    stack = StackRecord(id="0", name="judged", status="REVIEW_IN_PROGRESS")
    try:
        manager.validate(stack, given, complete=complete)
    except InvalidDocument as caught:
        return list(caught.problems)
    return []


async def test_create_update_and_change_set_ask_the_rules(manager: StackManager) -> None:
    bad, good = {"Stage": "production"}, {"Stage": "production", "Size": "huge"}
    for work in (
        manager.create("no", source({"R": LARGE}, bad)),
        manager.create_change_set("no", "c", source({"R": LARGE}, bad), kind="CREATE"),
    ):
        with pytest.raises(InvalidDocument, match="rule 'R': production is large"):
            await work
    with pytest.raises(InvalidDocument, match="production is large"):
        manager.plan(None, source({"R": LARGE}, bad))
    assert manager.stacks == {}

    stack = await manager.create("yes", source({"R": LARGE}, good))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    with pytest.raises(InvalidDocument, match="production is large"):
        await manager.update(stack, source({"R": LARGE}, bad))
    await manager.update(stack, source({"R": LARGE}, {"Size": "small"}))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason


ASSERTIONS: list[tuple[Any, bool]] = [
    ({"Fn::Contains": [["small"], {"Ref": "Size"}]}, True),
    ({"Fn::Contains": [["large"], {"Ref": "Size"}]}, False),
    ({"Fn::EachMemberEquals": [["small", "small"], {"Ref": "Size"}]}, True),
    ({"Fn::EachMemberEquals": [{"Ref": "Zones"}, "a"]}, False),
    ({"Fn::EachMemberIn": [{"Ref": "Zones"}, ["a", "b", "c"]]}, True),
    ({"Fn::EachMemberIn": [{"Ref": "Zones"}, ["a", "c"]]}, False),
    ({"Fn::EachMemberIn": [{"Fn::RefAll": "AWS::EC2::VPC::Id"}, ["vpc-1", "vpc-2", "vpc-3"]]}, True),
    ({"Fn::EachMemberIn": [{"Fn::RefAll": "AWS::EC2::VPC::Id"}, ["vpc-1", "vpc-2"]]}, False),
    ({"Fn::And": [{"Fn::Equals": [1, "1"]}, {"Fn::Not": [{"Fn::Equals": [{"Ref": "Size"}, "large"]}]}]}, True),
    ({"Fn::Or": [{"Fn::Equals": [{"Ref": "Size"}, "large"]}, {"Fn::Equals": [{"Ref": "Stage"}, "live"]}]}, False),
    ({"Fn::Not": [{"Fn::Equals": [{"Ref": "Size"}, "small"]}]}, False),
]


@pytest.mark.parametrize(("assertion", "holds"), ASSERTIONS)
async def test_functions_of_rules(manager: StackManager, assertion: Any, holds: bool) -> None:
    found = problems(manager, source({"R": {"Assertions": [{"Assert": assertion, "AssertDescription": "said so"}]}}))
    assert [problem.message for problem in found] == ([] if holds else ["rule 'R': said so"])
    assert holds or (found[0].code, found[0].path) == ("RULE", "Rules/R/Assertions/0")


async def test_all_that_is_broken_is_told_at_once(manager: StackManager) -> None:
    never = {"Assert": {"Fn::Equals": ["a", "b"]}}
    found = problems(manager, source({"R": {"Assertions": [never, never]}, "S": {"Assertions": [never]}}))
    assert [problem.message for problem in found] == [
        "rule 'R': its assertion does not hold",
        "rule 'R': its assertion does not hold",
        "rule 'S': its assertion does not hold",
    ]


async def test_a_value_that_is_missing_breaks_no_rule_of_a_template_alone(manager: StackManager) -> None:
    given = source({"R": LARGE}, Parameters={"Stage": {"Type": "String"}, "Size": {"Type": "String"}})
    assert problems(manager, given, complete=False) == []


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("text", "a rule is a map"),
        ({"Assertions": {}}, "a rule is a map"),
        ({"Assertions": [], "Other": 1}, "a rule is a map"),
        ({"Assertions": [{"AssertDescription": "x"}]}, "an assertion is a map"),
        ({"Assertions": [{"Assert": {"Fn::Equals": [{"Ref": "A"}, "x"]}}]}, "can not refer to the resource 'A'"),
        ({"Assertions": [{"Assert": {"Fn::ValueOf": ["First", "Tags.x"]}}]}, "asks AWS about an object"),
        ({"Assertions": [{"Assert": {"Ref": "Size"}}]}, "must be true or false"),
        ({"RuleCondition": "Nothing", "Assertions": []}, "there is no condition"),
    ],
)
async def test_rules_that_are_none(manager: StackManager, rule: Any, sentence: str) -> None:
    (problem,) = problems(manager, source({"R": rule}))
    assert sentence in problem.message


@pytest.mark.parametrize("section", ["Hooks", "Globals"])
async def test_sections_without_effect_are_refused(manager: StackManager, section: str) -> None:
    (problem,) = problems(manager, source({}, **{section: {"Function": {"Timeout": 5}}}))
    assert problem.code == "REFUSED"
    assert problem.message.startswith(f"'{section}' is refused: ")
