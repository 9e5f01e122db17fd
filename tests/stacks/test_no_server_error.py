"""No request makes the daemon answer 500: schemathesis over the native interface, hypothesis over the Query endpoint."""

from __future__ import annotations

import collections
import http.client
import json
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcloud.api.aws.query import service
from tests.stacks.daemon import Daemon

SCHEMATHESIS = Path(__file__).resolve().parents[2] / ".tools/schemathesis/bin/schemathesis"
NAME = "fuzzed"
TEMPLATE = {
    "heat_template_version": "2018-08-31",
    "resources": {"a": {"type": "OS::Heat::TestResource"}, "b": {"type": "OS::Heat::RandomString"}},
}
_LEFT_OUT = ["/v1/shutdown$", "/v1/events/stream$", "/v1/tokens/"]
"""Ends the daemon; never ends; takes the right to go on away."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "images").mkdir()
    with Daemon(folder, bridge="pcscfz0", images=folder / "images") as made:
        made.call("POST", "/v1/stacks", {"name": NAME, "template": TEMPLATE})
        yield made


@pytest.mark.real
@pytest.mark.parametrize("names", ["random", "existing"])
def test_schemathesis_finds_no_server_error(daemon: Daemon, tmp_path: Path, names: str) -> None:
    if not SCHEMATHESIS.exists():
        pytest.skip("schemathesis is not installed (tools/setup-tests does it)")
    specification = daemon.call("GET", "/openapi.json")
    build = specification["paths"]["/v1/jeos"]["post"]["operationId"]  # minutes of mmdebstrap a request
    configuration = tmp_path / "schemathesis.toml"
    existing = f'[parameters]\n"path.name" = "{NAME}"\n"path.assembly" = "{NAME}"\n'
    configuration.write_text(existing if names == "existing" else "")
    report = tmp_path / "report.har"
    done = subprocess.run(
        [
            SCHEMATHESIS, "--config-file", str(configuration), "run", f"{daemon.url}/openapi.json",
            "--header", f"Authorization: Bearer {daemon.token}", "--checks", "not_a_server_error",
            "--request-timeout", "120", "--phases", "coverage,fuzzing", "--max-examples", "3",
            "--exclude-path-regex", "|".join(_LEFT_OUT), "--exclude-operation-id", build,
            "--suppress-health-check", "all", "--continue-on-failure", "--warnings", "off", "--seed", "1",
            "--report-har-path", str(report),
        ],
        cwd=tmp_path, env=daemon.environment, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    statuses = collections.Counter(
        entry["response"]["status"] for entry in json.loads(report.read_text())["log"]["entries"]
    )
    print(f"schemathesis, {names} names: {dict(statuses)}")
    assert not [status for status in statuses if status >= 500]
    assert sum(statuses.values()) > 500
    assert statuses[200] > 50, "most requests must get past the guards for this to mean anything"
    assert statuses[401] < sum(statuses.values()) / 4
    daemon.call("GET", "/v1/stacks")


class Query:
    """One connection to the Query endpoint."""

    def __init__(self, daemon: Daemon) -> None:
        self.connection = http.client.HTTPConnection(
            urllib.parse.urlsplit(daemon.cloudformation).netloc or "", timeout=60
        )
        self.headers = {"X-Auth-Token": daemon.token, "Content-Type": "application/x-www-form-urlencoded"}

    def post(self, body: bytes, path: str = "/v1/") -> tuple[int, bytes]:
        self.connection.request("POST", path, body, self.headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture(scope="module")
def query(daemon: Daemon) -> Iterator[Query]:
    made = Query(daemon)
    yield made
    made.connection.close()


_FUNCTIONS = (
    "Ref", "Fn::GetAtt", "Fn::Join", "Fn::Split", "Fn::Select", "Fn::Base64", "Fn::FindInMap", "Fn::GetAZs", "Fn::Sub",
    "Fn::ImportValue", "Fn::Cidr", "Fn::If", "Fn::And", "Fn::Or", "Fn::Not", "Fn::Equals", "Fn::Length",
    "Fn::ToJsonString", "Fn::Contains", "Fn::RefAll", "Fn::ValueOf", "Fn::Transform", "Fn::Replace", "Condition",
    "Fn::MemberListToMap", "Fn::ResourceFacade", "Fn::ForEach::Loop", "Fn::Nonsense",
)  # fmt: skip
_WORDS = st.sampled_from(
    ["A", "B", "Word", "Flag", "AWS::Region", "AWS::NoValue", "${A}", "${A.output}", "${!x}", "output", "", "Delete"]
)
_SCALARS = st.one_of(_WORDS, st.text(max_size=12), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
_VALUES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(_WORDS, inner, max_size=3),
        st.builds(lambda name, value: {name: value}, st.sampled_from(_FUNCTIONS), inner),
    ),
    max_leaves=12,
)
_TYPES = st.sampled_from(
    [
        "OS::Heat::TestResource", "OS::Heat::Value", "OS::Heat::RandomString", "OS::Heat::None",
        "AWS::CloudFormation::WaitConditionHandle", "AWS::CloudFormation::Stack", "AWS::IAM::User",
        "AWS::EC2::Instance", "OS::Heat::ResourceGroup", "AWS::AutoScaling::AutoScalingGroup", "Nonsense",
    ]
)  # fmt: skip
_RESOURCES = st.one_of(
    _VALUES,
    st.fixed_dictionaries(
        {"Type": st.one_of(_TYPES, _VALUES)},
        optional={
            "Properties": st.one_of(
                st.dictionaries(st.sampled_from(["value", "wait_secs", "count"]), _VALUES), _VALUES
            ),
            "Metadata": _VALUES,
            "DependsOn": _VALUES,
            "Condition": _VALUES,
            "DeletionPolicy": _VALUES,
            "CreationPolicy": _VALUES,
            "UpdatePolicy": _VALUES,
        },
    ),
)
_TEMPLATES = st.fixed_dictionaries(
    {"Resources": st.one_of(st.dictionaries(st.sampled_from("ABC"), _RESOURCES, max_size=3), _VALUES)},
    optional={
        "AWSTemplateFormatVersion": st.one_of(st.just("2010-09-09"), _SCALARS),
        "Transform": st.one_of(st.just("AWS::LanguageExtensions"), _VALUES),
        "Parameters": st.one_of(
            st.dictionaries(
                st.sampled_from(["Word", "Number"]),
                st.fixed_dictionaries(
                    {"Type": st.one_of(st.sampled_from(["String", "Number", "List<Number>", "Json"]), _VALUES)},
                    optional={"Default": _VALUES, "AllowedPattern": _VALUES, "MinLength": _VALUES, "NoEcho": _VALUES},
                ),
                max_size=2,
            ),
            _VALUES,
        ),
        "Mappings": _VALUES,
        "Conditions": st.one_of(st.dictionaries(st.just("Flag"), _VALUES), _VALUES),
        "Rules": _VALUES,
        "Outputs": st.one_of(
            st.dictionaries(st.just("Out"), st.fixed_dictionaries({"Value": _VALUES}, optional={"Export": _VALUES})),
            _VALUES,
        ),
    },
)
_LIMITS = settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@_LIMITS
@given(
    action=st.sampled_from(["ValidateTemplate", "CreateChangeSet", "CreateStack", "UpdateStack", "GetTemplateSummary"]),
    template=_TEMPLATES,
)
def test_no_template_makes_a_server_error(query: Query, action: str, template: dict[str, Any]) -> None:
    form = {"Action": action, "StackName": "t", "ChangeSetName": "c", "OnFailure": "DELETE", "TimeoutInMinutes": "1"}
    form["TemplateBody"] = json.dumps(template)
    _no_server_error(query, urllib.parse.urlencode(form).encode())


def _members(name: str) -> list[str]:
    """Return the parameters of an operation, lists and structures one level deep."""
    shape = service().operation_model(name).input_shape
    found: list[str] = []
    for member, inner in (shape.members if shape is not None else {}).items():
        found.append(member)
        if inner.type_name == "list":
            found.append(f"{member}.member.1")
            found.extend(f"{member}.member.1.{key}" for key in getattr(inner.member, "members", {}))
        elif inner.type_name == "structure":
            found.extend(f"{member}.{key}" for key in inner.members)
    return found


_FORM_VALUES = st.one_of(
    st.sampled_from(
        [NAME, "true", "-1", "1e400", "{}", "[]", "arn:aws:cloudformation:local:000000000000:stack/x/y", "\x00"]
    ),
    st.text(max_size=40),
)


@st.composite
def _forms(draw: st.DrawFn) -> dict[str, str]:
    action = draw(st.sampled_from(sorted(service().operation_names)))
    names = draw(st.lists(st.sampled_from(_members(action) or ["StackName"]), max_size=6, unique=True))
    form = {"Action": action, **{name: draw(_FORM_VALUES) for name in names}}
    if draw(st.booleans()):
        form["ContentType"] = draw(st.sampled_from(["JSON", "XML", "x"]))
    if "StackName" in _members(action) and draw(st.booleans()):
        form["StackName"] = NAME
    return form


@_LIMITS
@given(form=_forms())
def test_no_form_makes_a_server_error(query: Query, form: dict[str, str]) -> None:
    if form["Action"] == "DeleteStack" and form.get("StackName") == NAME:
        form["StackName"] = "another"
    body = urllib.parse.urlencode(form, errors="surrogatepass").encode()
    _no_server_error(query, body)


@_LIMITS
@given(body=st.binary(max_size=300))
def test_no_bytes_make_a_server_error(query: Query, body: bytes) -> None:
    _no_server_error(query, body)


def _no_server_error(query: Query, body: bytes) -> None:
    status, answer = query.post(body)
    assert 200 <= status < 500, (body, status, answer)
    assert b"RequestId" in answer, (body, answer)
