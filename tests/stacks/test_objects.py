"""Buckets and containers in a real Swift, which speaks S3 as well: made once, nobody else's, gone with their stack."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pcloud.api.aws.app import cloudformation_app
from pcloud.model.errors import InvalidDocument
from pcloud.objects.checks import checks
from pcloud.objects.errors import ObjectStoreError
from pcloud.objects.settings import SwiftSettings
from pcloud.objects.store import ObjectStore
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.store import SqliteStore
from tests.stacks.boto import Server
from tests.stacks.buckets import bucket, cfn, close, container, deleted, ended, made
from tests.stacks.crashes import CrashingStore
from tests.stacks.objects import Swift
from tests.stacks.serving import serving

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def nothing_left(swift: Swift) -> Iterator[None]:
    """Each test begins and ends with an empty store."""
    assert swift.names() == []
    yield
    left = swift.names()
    for name in left:
        for item in swift.s3().list_objects_v2(Bucket=name).get("Contents", ()):
            swift.s3().delete_object(Bucket=name, Key=item["Key"])
        swift.s3().delete_bucket(Bucket=name)
    assert left == []


def open_manager(
    peer: Swift,
    path: Path,
    /,
    store: type[SqliteStore] = SqliteStore,
    objects: ObjectStore | None = None,
    **changed: Any,
) -> StackManager:
    platform = NoPlatform()
    platform.objects = objects or ObjectStore(peer.settings(**changed), {})
    return StackManager(store(path), platform)


@pytest.fixture
async def manager(swift: Swift, tmp_path: Path) -> AsyncIterator[StackManager]:
    manager = open_manager(swift, tmp_path / "stacks.db")
    await manager.start()
    yield manager
    await close(manager)


def anonymous(url: str) -> tuple[int, str]:
    """What somebody without credentials gets."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""


def account(swift: Swift) -> str:
    return f"{swift.url}/v1/AUTH_pcloud"


def reasons(manager: StackManager, stack: StackRecord, status: str) -> str:
    return "; ".join(event.reason for event in manager.events(stack) if event.status == status)


# --- life


async def test_a_bucket_has_a_name_of_its_own_and_its_attributes(manager: StackManager, swift: Swift) -> None:
    outputs = {
        "name": {"Ref": "Media"},
        **{key: {"Fn::GetAtt": ["Media", key]} for key in ("Arn", "DomainName", "RegionalDomainName", "WebsiteURL")},
    }
    stack = await made(manager, cfn(outputs, Media=bucket()))
    (name,) = swift.names()
    assert name.startswith("shop-media-")
    said = {key: output["value"] for key, output in stack.outputs.items()}
    host = swift.url.removeprefix("http://")
    assert said == {
        "name": name,
        "Arn": f"arn:aws:s3:::{name}",
        "DomainName": host,
        "RegionalDomainName": host,
        "WebsiteURL": f"{swift.url}/{name}",
    }
    await deleted(manager, stack)


async def test_a_bucket_with_content_stays_until_it_is_emptied(manager: StackManager, swift: Swift) -> None:
    stack = await made(manager, cfn(B=bucket(BucketName="kept-things")))
    swift.s3().put_object(Bucket="kept-things", Key="a/b", Body=b"x")
    await deleted(manager, stack, "DELETE_FAILED")
    assert "is not empty" in reasons(manager, stack, "DELETE_FAILED")
    assert swift.s3().get_object(Bucket="kept-things", Key="a/b")["Body"].read() == b"x"
    swift.s3().delete_object(Bucket="kept-things", Key="a/b")
    await deleted(manager, stack)


async def test_deletion_policy_keeps_a_bucket(manager: StackManager, swift: Swift) -> None:
    body = json.loads(cfn(B=bucket(BucketName="retained")).template)
    body["Resources"]["B"]["DeletionPolicy"] = "Retain"
    await deleted(manager, await made(manager, Source(template=json.dumps(body))))
    assert swift.names() == ["retained"]
    swift.s3().delete_bucket(Bucket="retained")


@pytest.mark.parametrize("kind", ["AWS::S3::Bucket", "OS::Swift::Container"])
async def test_what_was_there_before_is_never_taken(manager: StackManager, swift: Swift, kind: str) -> None:
    """Nor by a rollback, a second stack, or the deletion of either."""
    properties = {"BucketName" if "S3" in kind else "name": "somebodys"}
    swift.s3().create_bucket(Bucket="somebodys")
    stack = await made(manager, cfn(A=(kind, properties)), "ROLLBACK_COMPLETE")
    assert "somebodys already exists" in reasons(manager, stack, "CREATE_FAILED")
    await deleted(manager, stack)
    assert swift.names() == ["somebodys"]
    swift.s3().delete_bucket(Bucket="somebodys")
    first = await made(manager, cfn(A=(kind, properties)), name="first")
    second = await made(manager, cfn(A=(kind, properties)), "ROLLBACK_COMPLETE", name="second")
    await deleted(manager, second)
    assert swift.names() == ["somebodys"]
    await deleted(manager, first)


async def test_two_stacks_at_once_do_not_share_a_name(manager: StackManager, swift: Swift) -> None:
    source = cfn(A=bucket(BucketName="contested"))
    stacks = [await manager.create(name, source) for name in ("one", "two", "three")]
    for stack in stacks:
        await manager.wait(stack)
    assert sorted(stack.status for stack in stacks) == ["CREATE_COMPLETE", "ROLLBACK_COMPLETE", "ROLLBACK_COMPLETE"]
    for stack in sorted(stacks, key=lambda item: item.status, reverse=True):
        await deleted(manager, stack)


async def test_things_of_other_types_do_not_take_names(manager: StackManager) -> None:
    user = "AWS::IAM::User", {"UserName": "media"}
    body = json.loads(cfn(User=user, B=bucket(BucketName="media")).template)
    body["Resources"]["B"]["DependsOn"] = "User"
    await deleted(manager, await made(manager, Source(template=json.dumps(body))))


async def test_a_claim_is_kept_over_a_crash(swift: Swift, tmp_path: Path) -> None:
    """Two resources want one name; the first is killed between its claim and its bucket. The other does not get it."""
    first = open_manager(swift, tmp_path / "stacks.db")
    assert first.platform.objects.buckets is not None
    claimed = asyncio.Event()

    async def never(name: str) -> None:
        claimed.set()
        await asyncio.Event().wait()

    first.platform.objects.buckets.create = never  # type: ignore[method-assign]
    await first.start()
    await first.create("one", cfn(A=bucket(BucketName="contested")))
    async with asyncio.timeout(60):
        await claimed.wait()
    await close(first)
    again = open_manager(swift, tmp_path / "stacks.db")
    assert again.platform.objects.buckets is not None
    buckets, go = again.platform.objects.buckets, asyncio.Event()
    create = buckets.create

    async def later(name: str) -> None:
        await go.wait()
        await create(name)

    buckets.create = later  # type: ignore[method-assign]
    await again.start()
    other = await made(again, cfn(A=bucket(BucketName="contested")), "ROLLBACK_COMPLETE", name="two")
    go.set()
    one = await ended(again, again.get("one"), "CREATE_COMPLETE")
    assert swift.names() == ["contested"]
    await deleted(again, other)
    await deleted(again, one)
    await close(again)


# --- what a bucket is


async def test_access_control_follows_the_template(manager: StackManager, swift: Swift) -> None:
    stack = await made(manager, cfn(B=bucket(BucketName="pages", AccessControl="PublicRead")))
    swift.s3().put_object(Bucket="pages", Key="x", Body=b"seen")
    page = f"{account(swift)}/pages/x"
    assert anonymous(page) == (200, "seen")
    await manager.update(stack, cfn(B=bucket(BucketName="pages")))
    await ended(manager, stack, "UPDATE_COMPLETE")
    assert anonymous(page)[0] == 401
    assert swift.s3().get_object(Bucket="pages", Key="x")["Body"].read() == b"seen", "the same bucket"
    swift.s3().delete_object(Bucket="pages", Key="x")
    await deleted(manager, stack)


async def test_what_the_store_can_not_do_is_told_and_turned_back(manager: StackManager, swift: Swift) -> None:
    stack = await made(manager, cfn(B=bucket(BucketName="plain", AccessControl="PublicRead")))
    website = bucket(BucketName="plain", AccessControl="Private", WebsiteConfiguration={"IndexDocument": "index.html"})
    await manager.update(stack, cfn(B=website))
    await ended(manager, stack, "UPDATE_ROLLBACK_COMPLETE")
    assert "NotImplemented" in reasons(manager, stack, "UPDATE_FAILED")
    assert anonymous(f"{account(swift)}/plain/absent")[0] == 404, "read by all, as it was before the update"
    await deleted(manager, stack)
    failed = await made(manager, cfn(B=website), "ROLLBACK_COMPLETE", name="again")
    assert swift.names() == []
    await deleted(manager, failed)


# --- containers


async def test_a_container_is_a_website_of_swift(manager: StackManager, swift: Swift) -> None:
    properties = {
        "X_Container_Read": ".r:*,.rlistings",
        "X_Container_Meta": {"web-index": "index.html", "colour": "red"},
    }
    outputs = {key: {"Fn::GetAtt": ["C", key]} for key in ("WebsiteURL", "DomainName", "RootURL")}
    stack = await made(manager, cfn(outputs, C=container(**properties)))
    (name,) = swift.names()
    said = {key: output["value"] for key, output in stack.outputs.items()}
    assert said == {
        "WebsiteURL": f"{account(swift)}/{name}",
        "DomainName": "127.0.0.1",
        "RootURL": account(swift),
    }
    swift.s3().put_object(Bucket=name, Key="index.html", Body=b"welcome")
    assert anonymous(said["WebsiteURL"] + "/") == (200, "welcome")
    await manager.update(stack, cfn(outputs, C=container(X_Container_Meta={"colour": "blue"})))
    await ended(manager, stack, "UPDATE_COMPLETE")
    assert anonymous(said["WebsiteURL"] + "/")[0] == 401
    await deleted(manager, stack, "DELETE_FAILED")
    assert "is not empty" in reasons(manager, stack, "DELETE_FAILED")
    swift.s3().delete_object(Bucket=name, Key="index.html")
    await deleted(manager, stack)


async def test_purge_on_delete_takes_all_that_is_in_it(
    manager: StackManager, swift: Swift, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcloud.objects.swift._PAGE", 10)
    stack = await made(manager, cfn(C=container(name="full of things", PurgeOnDelete=True)))
    containers = manager.platform.objects.containers
    assert containers is not None
    for name in ("a/b/c", "x?y=1", "50%", "ü", "#", *map(str, range(20))):
        path = urllib.request.quote(name, safe="")  # type: ignore[attr-defined]
        await containers._call("PUT", f"full%20of%20things/{path}", headers={"Content-Length": "0"})
    await deleted(manager, stack)


async def test_a_token_that_ran_out_is_asked_for_again(manager: StackManager, swift: Swift) -> None:
    stack = await made(manager, cfn(C=container()))
    containers = manager.platform.objects.containers
    assert containers is not None
    containers._token = "AUTH_tkforgotten"
    await deleted(manager, stack)
    assert containers._token != "AUTH_tkforgotten"


# --- crashes


def everything(**more: Any) -> Source:
    return cfn(Named=bucket(BucketName="named-one", **more), Box=container(name="box"))


@pytest.mark.parametrize("name", ["create", "update", "delete"])
@pytest.mark.timeout(900)
async def test_crash_at_every_write(name: str, swift: Swift, tmp_path: Path) -> None:
    """The next run carries on to the same end: nothing made twice, nothing of ours taken for somebody else's."""
    objects = ObjectStore(swift.settings(), {})
    point = 0
    while True:
        path = tmp_path / f"{point}.db"
        first = open_manager(swift, path, CrashingStore, objects)
        store = first.store
        assert isinstance(store, CrashingStore)
        await first.start()
        stack = None
        if name != "create":
            stack = await made(first, everything())
        store.left = point

        async def operate(manager: StackManager = first, stack: Any = stack) -> None:
            if name == "create":
                stack = await manager.create("Shop", everything())
            elif name == "update":
                await manager.update(stack, everything(AccessControl="PublicRead"))
            else:
                await manager.delete(stack)
            await manager.wait(stack)

        work = asyncio.ensure_future(operate())
        async with asyncio.timeout(60):
            while not work.done() and not store.crashed:
                await asyncio.sleep(0.001)
        finished = not store.crashed
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await first.close()
        again = open_manager(swift, path, objects=objects)
        await again.start()
        for found in list(again.stacks.values()):
            await again.wait(found)
            assert found.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"), (
                point,
                [record.reason for record in again.records(found)],
            )
            physical = [record.physical for record in again.records(found)]
            assert sorted(physical) == sorted(swift.names()), point
            if found.live:
                assert len(physical) == 2
                await deleted(again, found)
        assert swift.names() == [], point
        await again.close()
        if finished:
            break
        point += 1
    await objects.close()
    print(f"{name}: {point} crash points")
    assert point > 5


# --- the store away, and secrets


async def test_a_store_that_is_away_is_told_of_and_tried_again(swift: Swift, tmp_path: Path) -> None:
    manager = open_manager(swift, tmp_path / "stacks.db")
    await manager.start()
    stack = await made(manager, cfn(B=bucket(), C=container()))
    right, manager.platform.objects = manager.platform.objects, ObjectStore(
        swift.settings(url="http://127.0.0.1:9", timeout=1), {}
    )  # fmt: skip
    await deleted(manager, stack, "DELETE_FAILED")
    assert "Could not connect" in reasons(manager, stack, "DELETE_FAILED")
    await manager.platform.objects.close()
    manager.platform.objects = right
    await deleted(manager, stack)
    await close(manager)


async def test_secrets_are_in_no_error_and_no_record(swift: Swift, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("notthesecretofanybody\n")
    wrong.chmod(0o600)
    store = ObjectStore(swift.settings(secret_file=str(wrong)), {})
    assert store.buckets is not None
    with pytest.raises(ObjectStoreError, match="signature") as caught:
        await store.buckets.create("denied")
    assert "notthesecret" not in str(caught.value)
    lines = await checks(store)
    assert [line.state for line in lines] == ["missing", "ok"]
    assert "notthesecret" not in repr(lines)
    await store.close()
    manager = open_manager(swift, tmp_path / "stacks.db")
    await manager.start()
    stack = await made(manager, cfn(B=bucket(), C=container()))
    await deleted(manager, stack)
    await close(manager)
    assert swift.secret.encode() not in b"".join(each.read_bytes() for each in tmp_path.glob("stacks.db*"))


async def test_a_store_of_one_kind_refuses_the_other(swift: Swift, tmp_path: Path) -> None:
    manager = open_manager(swift, tmp_path / "stacks.db", swift=SwiftSettings())
    await manager.start()
    with pytest.raises(InvalidDocument, match=r"OS::Swift::Container is refused: .* has no Swift endpoint"):
        manager.plan(None, cfn(C=container()), "x")
    assert len(manager.plan(None, cfn(B=bucket()), "x").changes) == 1
    await close(manager)


async def test_what_others_removed_is_drift_and_no_obstacle(manager: StackManager, swift: Swift) -> None:
    stack = await made(manager, cfn(B=bucket(BucketName="fleeting"), C=container(name="box")))
    await manager.detect_drift(stack)
    assert stack.drift["status"] == "IN_SYNC"
    for name in ("fleeting", "box"):
        swift.s3().delete_bucket(Bucket=name)
    await manager.detect_drift(stack)
    assert {name: record.drift["status"] for name, record in manager.current(stack).items()} == {
        "B": "DELETED",
        "C": "DELETED",
    }
    await deleted(manager, stack)


async def test_nested_templates_out_of_swift(manager: StackManager, swift: Swift) -> None:
    """Named by URL, the outer one as well: read through S3 as Swift speaks it, again at an update."""
    store, word = swift.s3(), {"Parameters": {"Word": {"Type": "String"}}}
    store.create_bucket(Bucket="templates")

    def put(key: str, resources: dict[str, Any], said: Any, **more: Any) -> str:
        body = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources, "Outputs": {"Said": {"Value": said}}}
        store.put_object(Bucket="templates", Key=key, Body=json.dumps({**body, **more}).encode())
        return f"{swift.url}/templates/{key}"

    def inner(text: str) -> str:
        value = {"Type": "OS::Heat::TestResource", "Properties": {"value": {"Fn::Sub": text}}}
        return put("folder/inner.json", {"A": value}, {"Fn::GetAtt": ["A", "output"]}, **word)

    nested = {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": inner("<${Word}>")}}
    nested["Properties"]["Parameters"] = {"Word": "one"}  # type: ignore[index]
    outer = put("outer.json", {"Inner": nested}, {"Fn::GetAtt": ["Inner", "Outputs.Said"]})
    async with serving(cloudformation_app(manager, {}.get)) as url:
        server = Server(manager, url)

        async def said() -> str:
            await manager.wait(manager.get("s"))
            (stack,) = (await server.call("describe_stacks", StackName="s"))["Stacks"]
            assert stack["StackStatus"].endswith("E_COMPLETE"), stack.get("StackStatusReason")
            return str(stack["Outputs"][0]["OutputValue"])

        await server.call("create_stack", StackName="s", TemplateURL=outer)
        assert await said() == "<one>"
        inner("(${Word})")
        await server.call("update_stack", StackName="s", TemplateURL="s3://templates/outer.json")
        assert await said() == "(one)"
        store.delete_object(Bucket="templates", Key="folder/inner.json")
        with pytest.raises(server.client().exceptions.ClientError, match="TemplateURL of the resource Inner") as told:
            await server.call("update_stack", StackName="s", TemplateURL=outer)
        assert swift.secret not in str(told.value)
        await deleted(manager, manager.get("s"))
    store.delete_object(Bucket="templates", Key="outer.json")
    store.delete_bucket(Bucket="templates")
