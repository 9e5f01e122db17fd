"""Each intrinsic function of both languages by name: what it gives, and from which version on.

Expected values are those of the languages' own references: the HOT specification and CloudFormation's intrinsic functions.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord

HOT: list[tuple[str, Any, Any]] = [
    ("2013-05-23", {"get_param": "word"}, "hello"),
    ("2013-05-23", {"get_param": ["tree", "a", 1]}, "y"),
    ("2013-05-23", {"get_attr": ["thing", "output"]}, "made"),
    ("2013-05-23", {"get_file": "notes.txt"}, "from a file"),
    ("2013-05-23", {"str_replace": {"template": "$a $ab", "params": {"$a": "1", "$ab": "2"}}}, "1 2"),
    ("2013-05-23", {"Ref": "word"}, "hello"),
    ("2013-05-23", {"Fn::Select": ["1", ["a", "b"]]}, "b"),
    ("2013-05-23", {"Fn::Join": ["-", ["a", "b"]]}, "a-b"),
    ("2014-10-16", {"list_join": [", ", ["a", "b"]]}, "a, b"),
    ("2015-10-15", {"list_join": ["/", ["a"], ["b", "c"]]}, "a/b/c"),
    ("2015-04-30", {"digest": ["md5", "hello"]}, "5d41402abc4b2a76b9719d911017c592"),
    ("2015-04-30", {"digest": ["sha1", "hello"]}, "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"),
    ("2015-04-30", {"repeat": {"template": "n-%x%", "for_each": {"%x%": ["1", "2"]}}}, ["n-1", "n-2"]),
    (
        "2015-04-30",
        {"repeat": {"template": {"port": "%p%", "on": "%h%"}, "for_each": {"%p%": ["80", "443"], "%h%": ["a"]}}},
        [{"port": "80", "on": "a"}, {"port": "443", "on": "a"}],
    ),
    (
        "2016-10-14",
        {"repeat": {"template": "%a%%b%", "for_each": {"%a%": ["1", "2"], "%b%": ["x", "y"]}, "permutations": False}},
        ["1x", "2y"],
    ),
    ("2015-10-15", {"str_split": [",", "a,b,c"]}, ["a", "b", "c"]),
    ("2015-10-15", {"str_split": [",", "a,b,c", 1]}, "b"),
    ("2016-04-08", {"map_merge": [{"a": 1, "b": 1}, {"b": 2}]}, {"a": 1, "b": 2}),
    ("2016-10-14", {"map_replace": [{"a": "x"}, {"keys": {"a": "b"}, "values": {"x": "y"}}]}, {"b": "y"}),
    ("2016-10-14", {"yaql": {"expression": "$.data.n.select($ + 1)", "data": {"n": [1, 2]}}}, [2, 3]),
    ("2016-10-14", {"yaql": {"expression": "$.data.where($ > 1).len()", "data": [1, 2, 3]}}, 2),
    ("2016-10-14", {"if": ["yes", "a", "b"]}, "a"),
    ("2016-10-14", {"if": [{"not": "yes"}, "a", "b"]}, "b"),
    ("2016-10-14", {"if": [{"and": ["yes", {"equals": ["1", "1"]}]}, "a", "b"]}, "a"),
    ("2016-10-14", {"if": [{"or": [{"not": "yes"}, {"equals": ["1", "2"]}]}, "a", "b"]}, "b"),
    ("2017-02-24", {"filter": [["", "b"], ["a", "b", "", "c"]]}, ["a", "c"]),
    ("2017-02-24", {"str_replace_strict": {"template": "a-$x", "params": {"$x": "1"}}}, "a-1"),
    ("2017-09-01", {"str_replace_vstrict": {"template": "a-$x", "params": {"$x": "1"}}}, "a-1"),
    (
        "2017-09-01",
        {"make_url": {"scheme": "https", "host": "a.test", "port": 8443, "path": "/p q", "query": {"k": "v w"}}},
        "https://a.test:8443/p%20q?k=v+w",
    ),
    ("2017-09-01", {"list_concat": [["a"], ["b", "a"]]}, ["a", "b", "a"]),
    ("2017-09-01", {"list_concat_unique": [["a"], ["b", "a"]]}, ["a", "b"]),
    ("2017-09-01", {"contains": ["a", ["a", "b"]]}, True),
]
"""The version that brought it, the call, and what it gives."""

CFN: list[tuple[Any, Any]] = [
    ({"Ref": "Word"}, "hello"),
    ({"Ref": "AWS::StackName"}, "s"),
    ({"Fn::Base64": "hello"}, "aGVsbG8="),
    ({"Fn::Cidr": ["10.0.0.0/24", 2, 5]}, ["10.0.0.0/27", "10.0.0.32/27"]),
    ({"Fn::FindInMap": ["Sizes", "small", "cpus"]}, "1"),
    ({"Fn::GetAtt": ["Thing", "output"]}, "made"),
    ({"Fn::GetAtt": "Thing.output"}, "made"),
    ({"Fn::If": ["Yes", "a", "b"]}, "a"),
    ({"Fn::If": ["No", "a", "b"]}, "b"),
    ({"Fn::Join": ["-", ["a", "b"]]}, "a-b"),
    ({"Fn::Join": ["-", {"Fn::Split": [",", "a,b"]}]}, "a-b"),
    ({"Fn::Select": [1, ["a", "b"]]}, "b"),
    ({"Fn::Select": [0, {"Fn::GetAZs": ""}]}, "nova"),
    ({"Fn::Sub": "${Word} ${Thing.output} ${!kept}"}, "hello made ${kept}"),
    ({"Fn::Sub": ["${x}-${Word}", {"x": "1"}]}, "1-hello"),
    ({"Fn::Length": [1, 2, 3]}, 3),
    ({"Fn::ToJsonString": {"a": [1, "b"]}}, '{"a":[1,"b"]}'),
]


async def outputs(manager: StackManager, source: Source) -> dict[str, Any]:
    """Make the stack and return its outputs."""
    stack: StackRecord = await manager.create("s", source)
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    return {name: item["value"] for name, item in stack.outputs.items()}


def hot(version: str, calls: list[Any]) -> Source:
    conditions = {"conditions": {"yes": {"equals": ["a", "a"]}}} if version >= "2016-10-14" else {}
    body = {
        "heat_template_version": version,
        **conditions,
        "parameters": {
            "word": {"type": "string", "default": "hello"},
            "tree": {"type": "json", "default": {"a": ["x", "y"]}},
        },
        "resources": {"thing": {"type": "OS::Heat::TestResource", "properties": {"value": "made"}}},
        "outputs": {f"o{number}": {"value": call} for number, call in enumerate(calls)},
    }
    return Source(template=json.dumps(body), files={"notes.txt": "from a file"})


@pytest.mark.parametrize("version", sorted({version for version, _, _ in HOT}))
async def test_functions_of_hot(manager: StackManager, version: str) -> None:
    rows = [(call, expected) for since, call, expected in HOT if since == version]
    found = await outputs(manager, hot(version, [call for call, _ in rows]))
    assert list(found.values()) == [expected for _, expected in rows]


@pytest.mark.parametrize(
    ("version", "call", "sentence"),
    [
        ("2013-05-23", {"yaql": {"expression": "$", "data": 1}}, "came with heat_template_version 2016-10-14"),
        ("2014-10-16", {"digest": ["md5", "x"]}, "came with heat_template_version 2015-04-30"),
        ("2018-08-31", {"digest": ["md6", "x"]}, "md6"),
        ("2018-08-31", {"str_replace_strict": {"template": "a", "params": {"$x": "1"}}}, "does not hold $x"),
        ("2018-08-31", {"str_replace_vstrict": {"template": "$x", "params": {"$x": ""}}}, "has no value"),
        ("2018-08-31", {"map_replace": [{"a": 1, "b": 2}, {"keys": {"a": "b"}}]}, "the key 'b' twice"),
        ("2018-08-31", {"yaql": {"expression": "$.(", "data": 1}}, "yaql"),
        ("2018-08-31", {"make_url": {"scheme": "https", "port": 99999}}, "port"),
        ("2018-08-31", {"get_file": "absent.txt"}, "absent.txt"),
    ],
)
async def test_wrong_calls_are_told_before_anything_starts(
    manager: StackManager, version: str, call: Any, sentence: str
) -> None:
    with pytest.raises(InvalidDocument, match=r".*") as told:
        await manager.create("s", hot(version, [call]))
    assert any(sentence in problem.message + problem.hint for problem in told.value.problems), told.value.problems
    assert told.value.problems[0].path.startswith("outputs/o0")
    assert not manager.stacks


async def test_the_functions_of_cloudformation_have_gone_later(manager: StackManager) -> None:
    assert await outputs(manager, hot("2018-08-31", [{"Ref": "word"}])) == {"o0": {"Ref": "word"}}
    with pytest.raises(InvalidDocument, match="'Fn::Join' is not known here"):
        await manager.create("other", hot("2018-08-31", [{"Fn::Join": ["-", ["a"]]}]))


async def test_functions_of_cloudformation(manager: StackManager) -> None:
    body = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Transform": "AWS::LanguageExtensions",
        "Parameters": {"Word": {"Type": "String", "Default": "hello"}},
        "Mappings": {"Sizes": {"small": {"cpus": "1"}}},
        "Conditions": {
            "Yes": {"Fn::Equals": [{"Ref": "Word"}, "hello"]},
            "No": {
                "Fn::Or": [
                    {"Fn::Not": [{"Condition": "Yes"}]},
                    {"Fn::And": [{"Condition": "Yes"}, {"Fn::Equals": ["1", "2"]}]},
                ]
            },
        },
        "Resources": {
            "Thing": {"Type": "OS::Heat::TestResource", "Properties": {"value": "made"}},
            "Fn::ForEach::Each": [
                "Name",
                ["A", "B"],
                {"Each${Name}": {"Type": "OS::Heat::TestResource", "Properties": {"value": {"Fn::Sub": "is ${Name}"}}}},
            ],
        },
        "Outputs": {f"O{number}": {"Value": call} for number, (call, _) in enumerate(CFN)}
        | {"Loop": {"Value": {"Fn::GetAtt": ["EachB", "output"]}}},
    }
    found = await outputs(manager, Source(template=json.dumps(body)))
    assert found.pop("Loop") == "is B"
    assert list(found.values()) == [expected for _, expected in CFN]


async def test_exports_and_their_imports(manager: StackManager) -> None:
    """An export that is used can neither go nor change."""

    def template(outputs: dict[str, Any]) -> Source:
        thing = {"Type": "OS::Heat::TestResource", "Properties": {"value": "made"}}
        return Source(
            template=json.dumps(
                {"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"T": thing}, "Outputs": outputs}
            )
        )

    one = {"O": {"Value": {"Fn::GetAtt": ["T", "output"]}, "Export": {"Name": {"Fn::Sub": "${AWS::StackName}-o"}}}}
    giving = await manager.create("giving", template(one))
    await manager.wait(giving)
    taking = await manager.create("taking", template({"I": {"Value": {"Fn::ImportValue": "giving-o"}}}))
    await manager.wait(taking)
    assert taking.outputs["I"]["value"] == "made"
    with pytest.raises(Exception, match="giving-o"):
        await manager.delete(giving)
    await manager.delete(taking)
    await manager.wait(taking)
    await manager.delete(giving)
    await manager.wait(giving)
    assert giving.status == "DELETE_COMPLETE"


async def test_what_a_stack_tells_of_its_facade(manager: StackManager) -> None:
    """A template within a stack reads its resource's metadata and policy in the one outside."""
    inner = {
        "heat_template_version": "2018-08-31",
        "resources": {"t": {"type": "OS::Heat::TestResource"}},
        "outputs": {"told": {"value": {"resource_facade": "metadata"}}},
    }
    outer = {
        "heat_template_version": "2018-08-31",
        "resources": {"in": {"type": "inner.yaml", "metadata": {"colour": "blue"}}},
        "outputs": {"told": {"value": {"get_attr": ["in", "told"]}}},
    }
    source = Source(template=json.dumps(outer), files={"inner.yaml": json.dumps(inner)})
    assert (await outputs(manager, source))["told"] == {"colour": "blue"}
