"""What is wrong in a nested template, or with a member of a group, is told before anything is made; the unknown passes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pcloud.model.errors import InvalidDocument, Problem
from pcloud.stacks.engine import judging
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source
from tests.stacks.test_engine import made


def heat(resources: dict[str, Any], parameters: dict[str, Any] | None = None, **outputs: Any) -> str:
    values = {name: {"value": value} for name, value in outputs.items()}
    body = {"heat_template_version": "2018-08-31", "parameters": parameters or {}, "resources": resources}
    return json.dumps({**body, "outputs": values})


def cfn(resources: dict[str, Any], **more: Any) -> str:
    return json.dumps({"Resources": resources, **more})


WORD = {"word": {"type": "string", "constraints": [{"length": {"max": 5}}]}}
INNER = heat({"a": made({"get_param": "word"})}, WORD, out={"get_attr": ["a", "output"]})
QUEUE = {"q": {"type": "OS::Zaqar::Queue"}}
NESTED = "AWS::CloudFormation::Stack"


def group(definition: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "OS::Heat::ResourceGroup", "properties": {"resource_def": definition, **more}}


def scaled(definition: dict[str, Any]) -> dict[str, Any]:
    properties = {"resource": definition, "min_size": 0, "max_size": 2}
    return {"type": "OS::Heat::AutoScalingGroup", "properties": properties}


BAD: dict[str, tuple[dict[str, Any], dict[str, str], str, str]] = {
    "a file that is not there": (
        {"type": NESTED, "properties": {"TemplateURL": "https://somewhere/x.template"}},
        {},
        "the template https://somewhere/x.template is not among the files",
        "resources/n",
    ),
    "a refused type in TemplateBody": (
        {"type": NESTED, "properties": {"TemplateBody": cfn({"Q": {"Type": "AWS::SQS::Queue"}})}},
        {},
        "AWS::SQS::Queue is refused",
        "resources/n/TemplateBody/Resources/Q",
    ),
    "a rule of a nested template": (
        {
            "type": NESTED,
            "properties": {
                "TemplateBody": cfn(
                    {}, Rules={"R": {"Assertions": [{"Assert": {"Fn::Equals": [1, 2]}, "AssertDescription": "no"}]}}
                )
            },
        },
        {},
        "rule 'R': no",
        "resources/n/TemplateBody/Rules/R/Assertions/0",
    ),
    "a refused type in a file": (
        {"type": "x.yaml"},
        {"x.yaml": heat(QUEUE)},
        "OS::Zaqar::Queue is refused",
        "resources/n/x.yaml/resources/q",
    ),
    "an unknown parameter": (
        {"type": "x.yaml", "properties": {"word": "w", "wrod": 1}},
        {"x.yaml": INNER},
        "the template has no parameter 'wrod'",
        "resources/n/x.yaml/parameters/wrod",
    ),
    "a missing parameter": (
        {"type": "x.yaml"},
        {"x.yaml": INNER},
        "the parameter 'word' needs a value",
        "resources/n/x.yaml/parameters/word",
    ),
    "a value that a constraint refuses": (
        {"type": "x.yaml", "properties": {"word": "too long"}},
        {"x.yaml": INNER},
        "'too long' is not allowed",
        "resources/n/x.yaml/parameters/word",
    ),
    "text that is no template": (
        {"type": "OS::Heat::Stack", "properties": {"template": "just words"}},
        {},
        "a template is a map",
        "resources/n/template/",
    ),
    "a type in a file of a file": (
        {"type": "o.yaml"},
        {"o.yaml": heat({"deep": {"type": "x.yaml"}}), "x.yaml": heat(QUEUE)},
        "OS::Zaqar::Queue is refused",
        "resources/n/o.yaml/resources/deep/x.yaml/resources/q",
    ),
    "a group of a refused type": (
        group({"type": "OS::Zaqar::Queue"}),
        {},
        "OS::Zaqar::Queue is refused",
        "resources/n/member/resources/member",
    ),
    "a scaling group of a file that is not there": (
        scaled({"type": "y.yaml"}),
        {},
        "the template file 'y.yaml' was not sent",
        "resources/n/member/resources/member",
    ),
    "a group of a file with a missing parameter": (
        group({"type": "x.yaml"}),
        {"x.yaml": INNER},
        "the parameter 'word' needs a value",
        "resources/n/member/resources/member/x.yaml/parameters/word",
    ),
    "a bad property of a member": (
        group(made(properties={"nonsense": 1})),
        {},
        "nonsense",
        "resources/n/member/resources/member",
    ),
    "a file that nests itself": (
        {"type": "x.yaml"},
        {"x.yaml": heat({"again": {"type": "x.yaml"}})},
        "nested deeper than 10",
        "resources/n" + "/x.yaml/resources/again" * 9,
    ),
}


async def refused(manager: StackManager, source: Source) -> list[Problem]:
    with pytest.raises(InvalidDocument) as caught:
        await manager.create("no", source)
    assert manager.stacks == {}
    return list(caught.value.problems)


@pytest.mark.parametrize("case", BAD)
async def test_what_is_nested_is_judged_before_anything_starts(manager: StackManager, case: str) -> None:
    resource, files, sentence, path = BAD[case]
    (problem,) = await refused(manager, Source(template=heat({"sibling": made(), "n": resource}), files=files))
    assert sentence in f"{problem.message} {problem.path}"
    assert problem.path.startswith(path)
    named = [name for name in files if f"/{name}/" in problem.path]
    assert problem.file == (named[-1] if named and "nested deeper" not in sentence else problem.file)


GOOD: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a value that is known later": (
        {"type": "x.yaml", "properties": {"word": {"get_attr": ["sibling", "output"]}}},
        {"x.yaml": INNER},
    ),
    "a property of a member that is known later": (
        group({"type": "x.yaml", "properties": {"word": {"get_attr": ["sibling", "output"]}}}, count=2),
        {"x.yaml": INNER},
    ),
    "all properties of a member": (group({"type": "x.yaml", "properties": {"word": "%index%"}}), {"x.yaml": INNER}),
    "none of a type that is not offered": (group({"type": "OS::Zaqar::Queue"}, count=0), {}),
    "a condition that does not hold": ({"type": "x.yaml", "condition": False}, {"x.yaml": heat(QUEUE)}),
    "an end to the nesting": (
        {"type": "x.yaml", "properties": {"left": 3}},
        {
            "x.yaml": json.dumps(
                {
                    "heat_template_version": "2018-08-31",
                    "parameters": {"left": {"type": "number"}},
                    "conditions": {"more": {"not": {"equals": [{"get_param": "left"}, 0]}}},
                    "resources": {"again": {"type": "y.yaml", "condition": "more"}},
                }
            ),
            "y.yaml": heat({"a": made()}),
        },
    ),
}


@pytest.mark.parametrize("case", GOOD)
async def test_what_can_be_made_is_made(manager: StackManager, case: str) -> None:
    resource, files = GOOD[case]
    stack = await manager.create("yes", Source(template=heat({"sibling": made(), "n": resource}), files=files))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason


async def test_an_export_of_a_sibling_is_not_there_yet(manager: StackManager) -> None:
    exporting = cfn({}, Outputs={"O": {"Value": "v", "Export": {"Name": "said"}}})
    importing = cfn({"A": {"Type": "OS::Heat::TestResource", "Properties": {"value": {"Fn::ImportValue": "said"}}}})
    body = {
        "One": {"Type": NESTED, "Properties": {"TemplateBody": exporting}},
        "Two": {"Type": NESTED, "DependsOn": "One", "Properties": {"TemplateBody": importing}},
    }
    stack = await manager.create("exports", Source(template=cfn(body)))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason


async def test_an_update_is_judged_too(manager: StackManager) -> None:
    template = heat({"n": {"type": "x.yaml"}})
    stack = await manager.create("one", Source(template=template, files={"x.yaml": heat({"a": made()})}))
    await manager.wait(stack)
    with pytest.raises(InvalidDocument, match=r"resources/n/x\.yaml/resources/q"):
        await manager.update(stack, Source(template=template, files={"x.yaml": heat(QUEUE)}))
    assert stack.status == "CREATE_COMPLETE"


async def test_a_tree_of_templates_is_judged_in_bounds(manager: StackManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of ten of ten … with parameters of their own: the judgement ends, whatever is beneath."""
    seen: list[str] = []
    judge = judging.Judging._nested

    def counted(self: Any, child: Any, foreseen: Any, depth: int) -> list[Problem]:
        seen.append(foreseen.label)
        return judge(self, child, foreseen, depth)

    monkeypatch.setattr(judging.Judging, "_nested", counted)
    number = {"n": {"type": "string"}}
    files = {"level8.yaml": heat({"a": made()}, number)}
    for level in range(8):
        many = {
            f"r{index}": {
                "type": f"level{level + 1}.yaml",
                "properties": {"n": {"list_join": ["", [{"get_param": "n"}, str(index)]]}},
            }
            for index in range(10)
        }
        files[f"level{level}.yaml"] = heat(many, number)
    source = Source(template=heat({"top": {"type": "level0.yaml", "properties": {"n": "x"}}}), files=files)
    manager.plan(None, source)
    assert len(seen) <= 10 * judging.MAX_JUDGED
