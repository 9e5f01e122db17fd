"""CloudWatch's Query protocol, as guests' tools and clients speak it: signed, and kept to their own stack."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import botocore.model
import botocore.session
import cbor2
import httpx2
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from pcloud.api.aws.app import cloudformation_app
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord
from tests.stacks.fake_platform import NotingPlatform
from tests.stacks.query_client import Client, texts
from tests.stacks.serving import serving
from tests.stacks.templates import alarm


def template(name: str) -> Source:
    body = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            "User": {"Type": "AWS::IAM::User"},
            "Key": {"Type": "AWS::IAM::AccessKey", "Properties": {"UserName": {"Ref": "User"}}},
            "Alarm": alarm(AlarmName=name),
        },
        "Outputs": {
            "key": {"Value": {"Ref": "Key"}},
            "secret": {"Value": {"Fn::GetAtt": ["Key", "SecretAccessKey"]}},
        },
    }
    return Source(template=json.dumps(body))


@pytest.fixture
def platform() -> NotingPlatform:
    return NotingPlatform()


@pytest.fixture
async def served(manager: StackManager) -> AsyncIterator[tuple[StackManager, str]]:
    async with serving(cloudformation_app(manager, lambda token: None)) as url:
        yield manager, url


async def made(manager: StackManager, name: str) -> StackRecord:
    stack = await manager.create(name, template(name))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    return stack


def client_of(stack: StackRecord, url: str) -> Client:
    return Client(url, stack.outputs["key"]["value"], stack.outputs["secret"]["value"])


def failure(**more: object) -> dict[str, object]:
    """What `cfn-push-stats --service-failure` sends, unit and all."""
    return {
        "Namespace": "system/linux",
        "MetricData.member.1.MetricName": "ServiceFailure",
        "MetricData.member.1.Value": 1,
        "MetricData.member.1.Unit": "Counter",
        "MetricData.member.1.Dimensions.member.1.Name": "InstanceId",
        "MetricData.member.1.Dimensions.member.1.Value": "i-1",
        **more,
    }


async def test_a_guest_pushes_with_its_stacks_key_and_only_its_own_alarm_goes_off(
    served: tuple[StackManager, str],
) -> None:
    manager, url = served
    one, two = await made(manager, "one"), await made(manager, "two")
    push = client_of(one, url)
    for _ in range(3):
        answer = await push("PutMetricData", failure())
        assert answer.status_code == 200, answer.text
    manager.watcher.look()
    assert manager.current(one)["Alarm"].data["state"] == "ALARM"
    assert manager.current(two)["Alarm"].data["state"] == "INSUFFICIENT_DATA"


async def test_a_stacks_key_may_do_nothing_else(served: tuple[StackManager, str]) -> None:
    manager, url = served
    one, two = await made(manager, "one"), await made(manager, "two")
    push = client_of(one, url)
    for action, fields in {
        "DescribeAlarms": {},
        "SetAlarmState": {"AlarmName": "one", "StateValue": "ALARM", "StateReason": "x"},
        "DeleteStack": {"StackName": "two"},
        "CreateStack": {"StackName": "three"},
        "GetTemplate": {"StackName": "one"},
    }.items():
        answer = await push(action, fields)
        assert answer.status_code == 403, (action, answer.text)
    about = {"StackName": "one", "LogicalResourceId": "Alarm"}
    assert (await push("DescribeStackResource", about)).status_code == 200
    assert (await push("DescribeStackResource", {**about, "StackName": two.name})).status_code == 403
    signal = {**about, "StackName": "two", "UniqueId": "1", "Status": "SUCCESS"}
    assert (await push("SignalResource", signal)).status_code == 403
    await manager.delete(one)
    await manager.wait(one)
    assert (await push("PutMetricData", failure())).status_code == 403, "the key went with its stack"


async def test_alarms_and_values_are_shown_to_operators(served: tuple[StackManager, str]) -> None:
    manager, url = served
    await made(manager, "one")
    ask = Client(url, *manager.make_key("native", "", "test"))
    shown = await ask("DescribeAlarms", {"AlarmNames.member.1": "one"})
    assert texts(shown, "StateValue") == ["INSUFFICIENT_DATA"]
    assert texts(shown, "Period") == ["300"]
    wanted = {"AlarmName": "one", "StateValue": "ALARM", "StateReason": "a drill"}
    assert (await ask("SetAlarmState", wanted)).status_code == 200
    manager.watcher.look()
    assert texts(await ask("DescribeAlarms"), "StateValue") == ["ALARM"]
    assert (await ask("DisableAlarmActions", {"AlarmNames.member.1": "one"})).status_code == 200
    assert texts(await ask("DescribeAlarms"), "ActionsEnabled") == ["false"]
    assert (await ask("PutMetricData", failure())).status_code == 200
    assert texts(await ask("ListMetrics"), "Metrics/member/MetricName") == ["ServiceFailure"]
    import datetime

    now = datetime.datetime.fromtimestamp(manager.now(), datetime.UTC)
    about = {
        "Namespace": "system/linux",
        "MetricName": "ServiceFailure",
        "StartTime": (now - datetime.timedelta(seconds=600)).isoformat(),
        "EndTime": (now + datetime.timedelta(seconds=600)).isoformat(),
        "Period": 1200,
        "Statistics.member.1": "SampleCount",
    }
    assert texts(await ask("GetMetricStatistics", about), "SampleCount") == ["1.0"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Namespace": "x"},
        failure(**{"MetricData.member.1.Value": "nan"}),
        failure(**{"MetricData.member.1.Value": "1e400"}),
        failure(**{"MetricData.member.1.Value": "many"}),
        failure(**{"MetricData.member.1.Timestamp": "yesterday"}),
        failure(**{"MetricData.member.1.Counts.member.1": "1", "MetricData.member.1.Counts.member.2": "1"}),
        {"Namespace": "x", "MetricData.member.1.MetricName": "m"},
    ],
)
async def test_bad_values_get_the_protocols_error(served: tuple[StackManager, str], fields: dict[str, object]) -> None:
    manager, url = served
    answer = await Client(url, *manager.make_key("native", "", "test"))("PutMetricData", fields)
    assert answer.status_code == 400, answer.text
    assert "<ErrorResponse" in answer.text
    assert manager.watcher.metrics.series == {}


async def test_unknown_alarms_and_operations(served: tuple[StackManager, str]) -> None:
    manager, url = served
    ask = Client(url, *manager.make_key("native", "", "test"))
    wanted = {"AlarmName": "none", "StateValue": "OK", "StateReason": ""}
    assert (await ask("SetAlarmState", wanted)).status_code == 404
    assert (await ask("PutDashboard", {})).status_code == 400


@pytest.mark.parametrize("protocol", ["smithy-rpc-v2-cbor", "json", "query"])
async def test_each_protocol_of_the_real_client(
    served: tuple[StackManager, str], protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore's own client, in each of the protocols that it may choose: values go in, packed where there are many, and
    come out; an error keeps its code."""
    manager, url = served
    await made(manager, "watch")
    key, secret = manager.make_key("operator", "", "of the test")
    monkeypatch.setattr(botocore.model, "PRIORITY_ORDERED_SUPPORTED_PROTOCOLS", (protocol,))
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)

    def speak(base: str) -> tuple[Any, ...]:
        session = botocore.session.Session()
        session.set_credentials(key, secret)
        settings = Config(proxies={}, retries={"total_max_attempts": 1})
        client = session.create_client("cloudwatch", "local", endpoint_url=base, config=settings)
        with contextlib.closing(client):
            values = [{"MetricName": "load", "Value": number, "Timestamp": now} for number in range(1, 301)]
            client.put_metric_data(Namespace="of/the/test", MetricData=values)
            found = client.get_metric_statistics(
                Namespace="of/the/test",
                MetricName="load",
                StartTime=now - datetime.timedelta(seconds=30),
                EndTime=now + datetime.timedelta(seconds=30),
                Period=60,
                Statistics=["Sum", "Maximum"],
            )
            with pytest.raises(ClientError) as refused:
                client.put_metric_data(Namespace="of/the/test", MetricData=[])
            with pytest.raises(ClientError) as unknown:
                client.list_dashboards()
            return found, client.describe_alarms(AlarmNames=["watch"]), refused.value, unknown.value

    for times, base in enumerate((f"{url}/v1/", url), 1):
        found, alarms, refused, unknown = await asyncio.to_thread(speak, base)
        [point] = found["Datapoints"]
        assert (point["Sum"], point["Maximum"]) == (times * 45150.0, 300.0)
        assert abs(point["Timestamp"] - now) <= datetime.timedelta(seconds=30)
        [shown] = alarms["MetricAlarms"]
        assert (shown["StateValue"], shown["ActionsEnabled"], shown["Period"]) == ("INSUFFICIENT_DATA", True, 300)
        assert isinstance(shown["StateUpdatedTimestamp"], datetime.datetime)
        assert refused.response["Error"]["Code"] == "InvalidParameterValue"
        assert unknown.response["Error"]["Code"] in ("UnknownOperationException", "InvalidAction")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"\xff", {}, 400),
        (b"\x81" * 100_000, {}, 400),
        (b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", {}, 400),
        (b"\xa1\x69Namespace\xd8\x1c\x81\xd8\x1d\x00", {}, 400),  # a list that holds itself
        (b"\xa1\x69Namespace\xc4\x82\x1a\x7f\xff\xff\xff\x01", {}, 400),  # a number of billions of digits
        (cbor2.dumps({"Namespace": "n", "MetricData": [{"MetricName": "m", "Value": float("inf")}]}), {}, 400),
        (cbor2.dumps({"Namespace": "n", "MetricData": [{"MetricName": "m", "Value": True}]}), {}, 400),
        (cbor2.dumps({"Namespace": "n", "MetricData": 3}), {}, 400),
        (cbor2.dumps([1, 2]), {}, 400),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b"\x00" * 20_000_000), {"Content-Encoding": "gzip"}, 413),
        (b"\x00", {"Content-Encoding": "br"}, 415),
        (b"\x00" * 2_000_000, {}, 413),
    ],
)
async def test_broken_cbor_is_refused(
    served: tuple[StackManager, str], body: bytes, headers: dict[str, str], status: int
) -> None:
    manager, url = served
    key, secret = manager.make_key("operator", "", "of the test")
    address = f"{url}/service/GraniteServiceVersion20100801/operation/PutMetricData"
    given = {"smithy-protocol": "rpc-v2-cbor", "Content-Type": "application/cbor", **headers}
    request = AWSRequest(method="POST", url=address, data=body, headers=given)
    SigV4Auth(Credentials(key, secret), "monitoring", "local").add_auth(request)
    async with httpx2.AsyncClient() as client:
        answer = await client.post(address, content=body, headers=dict(request.headers.items()))
        assert answer.status_code == status, answer.content[:500]
        assert cbor2.loads(answer.content)["message"]
        unsigned = await client.post(address, content=body, headers=given)
        assert unsigned.status_code in (403, 413)
    assert not manager.watcher.metrics.series
