"""Buckets and containers through a whole daemon: the real clients, `kill -9`, `pcloud doctor`, where no secret is."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stacks.corpus import corpus
from tests.stacks.daemon import Daemon, outputs, status, until
from tests.stacks.objects import Swift

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
CLIENTS = Path(__file__).resolve().parents[2] / ".tools/stack-clients/bin"
MEDIA = {
    "AWSTemplateFormatVersion": "2010-09-09",
    "Parameters": {"Access": {"Type": "String", "Default": "Private"}},
    "Resources": {"Media": {"Type": "AWS::S3::Bucket", "Properties": {"AccessControl": {"Ref": "Access"}}}},
    "Outputs": {"Name": {"Value": {"Ref": "Media"}}, "Site": {"Value": {"Fn::GetAtt": ["Media", "WebsiteURL"]}}},
}


@pytest.fixture(scope="module")
def daemon(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("objects"), bridge="pcso0", settings=swift.toml()) as made:
        yield made


def client(daemon: Daemon, program: str, *words: str, code: int = 0) -> str:
    """Run a real client against the daemon."""
    if not (CLIENTS / program).exists():
        pytest.skip("the real clients are not installed: tools/setup-tests does that")
    key = json.loads(daemon.pcloud("access-key", "create", "-o", "json"))
    environment = {
        **daemon.environment,
        "AWS_ACCESS_KEY_ID": key["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": key["secret_access_key"],
        "AWS_DEFAULT_REGION": "local",
        "AWS_ENDPOINT_URL_CLOUDFORMATION": f"{daemon.cloudformation}/v1/",
        "AWS_PAGER": "",
        "AWS_EC2_METADATA_DISABLED": "true",
        "OS_AUTH_URL": f"{daemon.heat}/identity/v3",
        "OS_USERNAME": "admin",
        "OS_PASSWORD": daemon.token,
        "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": "local",
    }
    done = subprocess.run(
        [CLIENTS / program, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == code, f"{program} {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def aws(daemon: Daemon, *words: str, code: int = 0) -> str:
    return client(daemon, "aws", "cloudformation", *words, code=code)


def template(name: str) -> str:
    folder = corpus()
    if folder is None:
        pytest.skip("PCLOUD_CORPORA is not set: the folder that holds heat-templates")
    return str(folder / name)


def test_aws_deploys_a_bucket_and_changes_it_in_place(daemon: Daemon, swift: Swift, tmp_path: Path) -> None:
    path = tmp_path / "media.json"
    path.write_text(json.dumps(MEDIA))
    aws(daemon, "deploy", "--stack-name", "media", "--template-file", str(path))
    said = outputs(daemon, "media")
    assert swift.names() == [said["Name"]]
    assert said["Site"] == f"{swift.url}/{said['Name']}"
    access = "ParameterKey=Access,ParameterValue=PublicRead"
    aws(daemon, "update-stack", "--stack-name", "media", "--use-previous-template", "--parameters", access)
    until("updated", lambda: status(daemon, "media") == "UPDATE_COMPLETE")
    assert outputs(daemon, "media") == said
    swift.s3().put_object(Bucket=said["Name"], Key="x", Body=b"x")
    aws(daemon, "delete-stack", "--stack-name", "media")
    until("deletion failed", lambda: status(daemon, "media") == "DELETE_FAILED")
    assert "is not empty" in aws(daemon, "describe-stack-events", "--stack-name", "media")
    swift.s3().delete_object(Bucket=said["Name"], Key="x")
    aws(daemon, "delete-stack", "--stack-name", "media")
    until("deleted", lambda: swift.names() == [])


def test_aws_creates_swift_template_of_the_corpus(daemon: Daemon, swift: Swift) -> None:
    body = f"file://{template('cfn/F17/Swift.template')}"
    aws(daemon, "create-stack", "--stack-name", "boxes", "--template-body", body)
    until("created", lambda: status(daemon, "boxes") == "CREATE_COMPLETE")
    site, plain = sorted(swift.names(), key=lambda name: "website" not in name)
    assert outputs(daemon, "boxes") == {"WebsiteURL": f"{swift.url}/v1/AUTH_pcloud/{plain}", "DomainName": "127.0.0.1"}
    assert "website" in site
    aws(daemon, "delete-stack", "--stack-name", "boxes")
    until("deleted", lambda: swift.names() == [])


def test_openstack_creates_swift_yaml_of_the_corpus(daemon: Daemon, swift: Swift) -> None:
    client(daemon, "openstack", "stack", "create", "--wait", "--poll", "1", "-t", template("hot/swift.yaml"), "web")
    said = json.loads(client(daemon, "openstack", "stack", "output", "show", "web", "WebsiteURL", "-f", "json"))
    name = next(name for name in swift.names() if "website" in name)
    assert said["output_value"] == f"{swift.url}/v1/AUTH_pcloud/{name}"
    client(daemon, "openstack", "stack", "delete", "-y", "--wait", "web")
    assert swift.names() == []


def test_kill_while_buckets_are_made_and_removed(daemon: Daemon, swift: Swift) -> None:
    body: dict[str, Any] = {"heat_template_version": "2018-08-31", "resources": {}}
    for number in range(12):
        body["resources"][f"b{number}"] = {"type": "AWS::S3::Bucket", "properties": {"BucketName": f"many-{number}"}}
        if number:
            body["resources"][f"b{number}"]["depends_on"] = f"b{number - 1}"
    daemon.call("POST", "/v1/stacks", {"name": "many", "template": json.dumps(body)})
    until("a bucket is there", lambda: bool(swift.names()))
    daemon.kill()
    between = len(swift.names())
    daemon.start()
    until("created", lambda: status(daemon, "many") == "CREATE_COMPLETE")
    assert sorted(swift.names()) == sorted(f"many-{number}" for number in range(12))
    daemon.call("DELETE", "/v1/stacks/many")
    until("a bucket is gone", lambda: len(swift.names()) < 12)
    daemon.kill()
    left = len(swift.names())
    daemon.start()
    until("deleted", lambda: daemon.call("GET", "/v1/stacks") == [])
    assert swift.names() == []
    print(f"killed with {between} buckets made, and with {left} left")


def test_doctor_tells_of_the_store(daemon: Daemon, swift: Swift, tmp_path: Path) -> None:
    found = {each["check"]: each for each in daemon.call("GET", "/v1/doctor")}
    assert found["object store: S3"]["state"] == "ok"
    assert found["object store: S3"]["detail"] == f"{swift.url}: 0 buckets"
    assert found["object store: Swift"]["detail"] == f"{swift.url}/v1/AUTH_pcloud"
    readable = tmp_path / "secret"
    readable.write_text(swift.secret)
    readable.chmod(0o644)
    settings = swift.toml().replace(str(swift.secret_file), str(readable))
    with Daemon(tmp_path, bridge="pcso1", settings=settings) as other:
        found = {each["check"]: each for each in other.call("GET", "/v1/doctor")}
        assert found["object store: S3"]["state"] == "missing"
        assert f"chmod 600 {readable}" in found["object store: S3"]["detail"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            other.call("POST", "/v1/stacks", {"name": "media", "template": json.dumps(MEDIA)})
        with refused.value as answer:
            assert "chmod 600" in answer.read().decode()


def test_without_a_store_buckets_are_refused_and_doctor_says_so(tmp_path: Path) -> None:
    with Daemon(tmp_path, bridge="pcso2") as bare:
        found = {each["check"]: each for each in bare.call("GET", "/v1/doctor")}
        assert found["object store"]["state"] == "ok"
        assert "none is configured" in found["object store"]["detail"]
        path = tmp_path / "media.json"
        path.write_text(json.dumps(MEDIA))
        done = bare.run("stack", "plan", "media", "-t", str(path))
        assert done.returncode != 0
        assert "AWS::S3::Bucket is refused: no object store is configured" in done.stdout + done.stderr


def test_secrets_come_from_the_environment_and_stay_out_of_it(swift: Swift, tmp_path: Path) -> None:
    """No child of the daemon has them, and no file of its."""
    settings = "\n".join(line for line in swift.toml().splitlines() if "_file" not in line) + "\n"
    daemon = Daemon(tmp_path, bridge="pcso3", settings=settings)
    daemon.environment |= {"PCLOUD_OBJECT_STORE_SECRET": swift.secret, "PCLOUD_SWIFT_KEY": swift.secret}
    with daemon:
        daemon.call("POST", "/v1/stacks", {"name": "media", "template": json.dumps(MEDIA)})
        until("created", lambda: status(daemon, "media") == "CREATE_COMPLETE")
        daemon.call("DELETE", "/v1/stacks/media")
        until("deleted", lambda: daemon.call("GET", "/v1/stacks") == [])
        assert daemon._process is not None
        own = {daemon._process.pid, os.getpid()}

        def stranger() -> set[int]:
            found = set()
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if swift.secret.encode() in (folder / "environ").read_bytes():
                        found.add(int(folder.name))
            return found - own

        # Only the daemon's own, as it was started; a child that is just being made has its parent's until it is executed.
        until("secrets in no other environment", lambda: not stranger())
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and swift.secret.encode() in path.read_bytes()]
    assert holding == []
