"""Templates that are named by URL, and those of nested stacks, out of the object store: with the `aws` client."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pcloud.api.aws.app import cloudformation_app
from pcloud.objects.settings import ObjectStoreSettings
from pcloud.objects.store import ObjectStore
from pcloud.stacks.platform import NoPlatform
from tests.stacks.boto import Server
from tests.stacks.buckets import close
from tests.stacks.lifecycle import opened
from tests.stacks.objects import client
from tests.stacks.serving import serving

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
AWS = Path(__file__).resolve().parents[2] / ".tools/stack-clients/bin/aws"
BUCKET, SECRET = "templates", "nobody-shall-see-this"


def value(word: Any, **outputs: Any) -> dict[str, Any]:
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Parameters": {"Word": {"Type": "String", "Default": "none"}},
        "Resources": {"A": {"Type": "OS::Heat::TestResource", "Properties": {"value": word}}},
        "Outputs": {"Said": {"Value": {"Fn::GetAtt": ["A", "output"]}}, **outputs},
    }


def around(url: Any, **parameters: Any) -> dict[str, Any]:
    properties = {"TemplateURL": url, "Parameters": parameters}
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Parameters": {"Word": {"Type": "String", "Default": "none"}, "Place": {"Type": "String", "Default": "none"}},
        "Resources": {"Inner": {"Type": "AWS::CloudFormation::Stack", "Properties": properties}},
        "Outputs": {"Said": {"Value": {"Fn::GetAtt": ["Inner", "Outputs.Said"]}}},
    }


@pytest.fixture
def s3(moto: str) -> Any:
    made = client(moto, "anybody", SECRET, "us-east-1")
    if BUCKET not in [item["Name"] for item in made.list_buckets()["Buckets"]]:
        made.create_bucket(Bucket=BUCKET)
    return made


@pytest.fixture
async def server(moto: str, tmp_path: Path) -> AsyncIterator[Server]:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    settings = ObjectStoreSettings(url=moto, access_key="anybody", secret_file=str(tmp_path / "secret"))
    platform = NoPlatform()
    platform.objects = ObjectStore(settings, {})
    manager = await opened(tmp_path, platform)
    async with serving(cloudformation_app(manager, {}.get)) as where:
        yield Server(manager, where)
    await close(manager)


def put(s3: Any, key: str, template: Any) -> str:
    text = template if isinstance(template, bytes) else json.dumps(template).encode()
    s3.put_object(Bucket=BUCKET, Key=key, Body=text)
    return f"{s3.meta.endpoint_url}/{BUCKET}/{key}"


async def said(server: Server, name: str, status: str = "CREATE_COMPLETE") -> str:
    await server.manager.wait(server.manager.get(name))
    (stack,) = (await server.call("describe_stacks", StackName=name))["Stacks"]
    assert stack["StackStatus"] == status, stack.get("StackStatusReason")
    return str(next(item["OutputValue"] for item in stack["Outputs"] if item["OutputKey"] == "Said"))


async def test_package_and_deploy_a_nested_stack(server: Server, s3: Any, moto: str, tmp_path: Path) -> None:
    """One key for both services, as the client has it."""
    if not AWS.exists():
        pytest.skip("the real clients are not installed: tools/setup-tests does that")
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": server.key,
        "AWS_SECRET_ACCESS_KEY": server.secret, "AWS_DEFAULT_REGION": "local", "AWS_PAGER": "",
        "AWS_ENDPOINT_URL_CLOUDFORMATION": f"{server.url}/v1/", "AWS_ENDPOINT_URL_S3": moto,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip

    async def aws(*words: str) -> None:
        done = await asyncio.to_thread(
            subprocess.run, [AWS, "cloudformation", *words], env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, f"aws {' '.join(words)}: {done.stdout}{done.stderr}"

    (tmp_path / "inner.yaml").write_text(json.dumps(value({"Ref": "Word"})))
    (tmp_path / "middle.yaml").write_text(json.dumps(around("inner.yaml", Word={"Ref": "Word"})))
    (tmp_path / "outer.yaml").write_text(json.dumps(around("middle.yaml", Word={"Ref": "Word"})))
    packed = str(tmp_path / "packed.yaml")

    async def deploy(word: str) -> None:
        outer = str(tmp_path / "outer.yaml")
        await aws("package", "--template-file", outer, "--s3-bucket", BUCKET, "--output-template-file", packed)
        await aws("deploy", "--stack-name", "shop", "--template-file", packed, "--s3-bucket", BUCKET,
                  "--parameter-overrides", f"Word={word}")  # fmt: skip

    await deploy("one")
    assert await said(server, "shop") == "one"
    (tmp_path / "inner.yaml").write_text(json.dumps(value({"Fn::Sub": "<${Word}>"})))
    await deploy("two")
    assert await said(server, "shop", "UPDATE_COMPLETE") == "<two>"
    source = server.manager.get("shop").source
    assert source is not None
    assert len(source.files) == 2, "what the stack was made from before is not carried along"


async def test_urls_of_every_form(server: Server, s3: Any, moto: str) -> None:
    inner = put(s3, "inner.json", value("in the store"))
    put(s3, "by-name.json", around({"Fn::Sub": "${Place}/inner.json"}))
    place = [{"ParameterKey": "Place", "ParameterValue": f"{moto}/{BUCKET}"}]
    await server.call("create_stack", StackName="s", TemplateURL=f"s3://{BUCKET}/by-name.json", Parameters=place)
    assert await said(server, "s") == "in the store"
    put(s3, "inner.json", value("changed"))
    assert (await server.call("validate_template", TemplateURL=inner))["Parameters"][0]["ParameterKey"] == "Word"
    summary = await server.call("get_template_summary", TemplateURL=inner)
    assert summary["ResourceTypes"] == ["OS::Heat::TestResource"]
    policy = put(s3, "policy.json", {"Statement": [{"Effect": "Allow", "Action": "Update:*", "Resource": "*"}]})
    await server.call("set_stack_policy", StackName="s", StackPolicyURL=policy)
    assert "Update:*" in (await server.call("get_stack_policy", StackName="s"))["StackPolicyBody"]


async def test_what_can_not_be_read_is_refused_before_anything_starts(server: Server, s3: Any, moto: str) -> None:
    missing = f"{moto}/{BUCKET}/missing.json"
    for given, sentence in (
        ({"TemplateURL": missing}, "TemplateURL: the object store, asked to get object, says"),
        ({"TemplateURL": f"{moto}/nobodys/x.json"}, "TemplateURL: the object store"),
        ({"TemplateURL": "https://example.org/b/t.json"}, "only the configured object store is read"),
        ({"TemplateURL": "file:///etc/passwd"}, "only the configured object store is read"),
        ({"TemplateURL": put(s3, "large", b"#" * 1_100_000)}, "larger than 1048576 bytes"),
        ({"TemplateURL": put(s3, "binary", b"\xff\xfe")}, "no text"),
        ({"TemplateBody": json.dumps(around(missing))}, "TemplateURL of the resource Inner"),
        ({"TemplateBody": json.dumps(value("x")), "StackPolicyURL": missing}, "StackPolicyURL: the object store"),
    ):
        with pytest.raises(server.client().exceptions.ClientError, match=sentence) as told:
            await server.call("create_stack", StackName="s", **given)
        assert SECRET not in str(told.value)
    assert not server.manager.stacks
