"""What Swift's S3 lacks (websites, tags, policies), in moto's S3, which checks no signatures."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pcloud.objects.settings import ObjectStoreSettings
from pcloud.objects.store import ObjectStore
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.store import SqliteStore
from tests.stacks.buckets import bucket, cfn, close, deleted, ended, made
from tests.stacks.objects import client

pytestmark = pytest.mark.real
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::site/*"}],
}


@pytest.fixture
def s3(moto: str) -> Any:
    return client(moto, "key", "secret")


@pytest.fixture
async def manager(moto: str, s3: Any, tmp_path: Path) -> AsyncIterator[StackManager]:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    platform = NoPlatform()
    platform.objects = ObjectStore(
        ObjectStoreSettings(
            url=moto,
            region="eu-west-1",
            access_key="key",
            secret_file=str(secret),
            website_url="http://{bucket}.web.test",
        ),
        {},
    )
    manager = StackManager(SqliteStore(tmp_path / "stacks.db"), platform)
    await manager.start()
    yield manager
    await close(manager)
    assert s3.list_buckets()["Buckets"] == []


def tags(s3: Any) -> dict[str, str]:
    try:
        return {item["Key"]: item["Value"] for item in s3.get_bucket_tagging(Bucket="site")["TagSet"]}
    except ClientError as error:
        assert error.response["Error"]["Code"] == "NoSuchTagSet"
        return {}


def website(s3: Any) -> dict[str, Any] | None:
    try:
        found = dict(s3.get_bucket_website(Bucket="site"))
    except ClientError as error:
        assert error.response["Error"]["Code"] == "NoSuchWebsiteConfiguration"
        return None
    del found["ResponseMetadata"]
    return found


async def test_website_and_tags_follow_the_template(manager: StackManager, s3: Any) -> None:
    rule = {
        "RoutingRuleCondition": {"KeyPrefixEquals": "old/"},
        "RedirectRule": {"ReplaceKeyPrefixWith": "new/", "HttpRedirectCode": "302"},
    }
    site = {"IndexDocument": "index.html", "ErrorDocument": "oops.html", "RoutingRules": [rule]}
    labels = [{"Key": "team", "Value": "web"}, {"Key": "paid", "Value": "no"}]
    outputs = {"url": {"Fn::GetAtt": ["B", "WebsiteURL"]}}
    stack = await made(manager, cfn(outputs, B=bucket(BucketName="site", WebsiteConfiguration=site, Tags=labels)))
    assert stack.outputs["url"]["value"] == "http://site.web.test"
    assert website(s3) == {
        "IndexDocument": {"Suffix": "index.html"},
        "ErrorDocument": {"Key": "oops.html"},
        "RoutingRules": [
            {
                "Condition": {"KeyPrefixEquals": "old/"},
                "Redirect": {"HttpRedirectCode": "302", "ReplaceKeyPrefixWith": "new/"},
            }
        ],
    }
    assert tags(s3) == {"team": "web", "paid": "no"}
    elsewhere = {"RedirectAllRequestsTo": {"HostName": "example.org", "Protocol": "https"}}
    await manager.update(stack, cfn(B=bucket(BucketName="site", WebsiteConfiguration=elsewhere, Tags=labels[:1])))
    await ended(manager, stack, "UPDATE_COMPLETE")
    assert website(s3) == elsewhere
    assert tags(s3) == {"team": "web"}
    await manager.update(stack, cfn(B=bucket(BucketName="site")))
    await ended(manager, stack, "UPDATE_COMPLETE")
    assert website(s3) is None
    assert tags(s3) == {}
    await deleted(manager, stack)


async def test_an_update_that_fails_elsewhere_leaves_the_bucket_as_it_was(manager: StackManager, s3: Any) -> None:
    """The bucket's own part of the update was done, or was refused half-way."""
    before = bucket(BucketName="site", Tags=[{"Key": "team", "Value": "web"}])
    stack = await made(manager, cfn(B=before))
    site = {"IndexDocument": "index.html"}
    after = bucket(BucketName="site", Tags=[{"Key": "aws:mine", "Value": "x"}], WebsiteConfiguration=site)
    await manager.update(stack, cfn(B=after))
    await ended(manager, stack, "UPDATE_ROLLBACK_COMPLETE")
    assert tags(s3) == {"team": "web"}
    assert website(s3) is None
    await deleted(manager, stack)


async def test_a_policy_belongs_to_one_resource(manager: StackManager, s3: Any) -> None:
    policy = "AWS::S3::BucketPolicy", {"Bucket": {"Ref": "B"}, "PolicyDocument": POLICY}
    stack = await made(manager, cfn(B=bucket(BucketName="site"), Old=policy))
    assert json.loads(s3.get_bucket_policy(Bucket="site")["Policy"]) == POLICY
    await manager.update(stack, cfn(B=bucket(BucketName="site"), New=policy))
    await ended(manager, stack, "UPDATE_COMPLETE")
    assert json.loads(s3.get_bucket_policy(Bucket="site")["Policy"]) == POLICY, "the old one's deletion left it"
    await manager.update(stack, cfn(B=bucket(BucketName="site")))
    await ended(manager, stack, "UPDATE_COMPLETE")
    with pytest.raises(ClientError, match="NoSuchBucketPolicy"):
        s3.get_bucket_policy(Bucket="site")
    await deleted(manager, stack)
