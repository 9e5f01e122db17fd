"""The real CloudFormation clients against a daemon of the tests' own, and the templates they bring up."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from pcloud.model.errors import PcloudError
from tests.e2e.stage import PATIENCE, ROOT, Stage, missing
from tests.guests import BOOT
from tests.ports import free_port

CLIENTS = ROOT / ".tools/stack-clients/bin"


def template(name: str) -> Path:
    """Return a template of the Heat project's own; skip where they are not."""
    corpora = os.environ.get("PCLOUD_CORPORA")
    if not corpora:
        pytest.skip("PCLOUD_CORPORA is not set: the folder that holds heat-templates")
    path = Path(corpora, "heat-templates", name)
    if not path.is_file():
        pytest.skip(f"PCLOUD_CORPORA has no heat-templates/{name}")
    return path


class StackStage(Stage):
    """A daemon with its CloudFormation endpoint on a port of its own."""

    def __init__(self, name: str) -> None:
        if lacking := missing():
            pytest.skip(lacking)
        if not (CLIENTS / "aws").exists():
            pytest.skip("the real clients are not installed: tools/setup-tests does that")
        super().__init__(name)
        self.port = free_port()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, name: str) -> Iterator[Self]:
        """Give a stage whose daemon runs, and end all of it afterwards."""
        stage = cls(name)
        stage.begin()
        try:
            yield stage
        finally:
            stage.close()

    def begin(self, settings: str = "", infrastructure: str = "lxc") -> None:
        """Start the daemon and make a key for the clients; `settings` are further ones."""
        ports = (("cloudformation", self.port), ("cloudwatch", free_port()), ("heat", free_port()))
        stacks = [f'infrastructure = "{infrastructure}"', *(f'{key} = "127.0.0.1:{port}"' for key, port in ports)]
        self.open("\n".join(["[stacks]", *stacks, settings, ""]))
        key = self.json("access-key", "create")
        self.clients = {
            **self.environment,
            "AWS_ACCESS_KEY_ID": key["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": key["secret_access_key"],
            "AWS_DEFAULT_REGION": "local",
            "AWS_ENDPOINT_URL_CLOUDFORMATION": f"http://127.0.0.1:{self.port}/v1/",
            "AWS_PAGER": "",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_DATA_PATH": str(self._quick_waiters()),
        }

    def _quick_waiters(self) -> Path:
        """Return a folder of models, which the clients read before their own: their waiters as they are, but that look
        each second instead of every thirty."""
        (own,) = CLIENTS.parent.glob(
            "lib/python3*/site-packages/botocore/data/cloudformation/2010-05-15/waiters-2.json"
        )
        waiters = json.loads(own.read_text())
        for waiter in waiters["waiters"].values():
            waiter.update(delay=1, maxAttempts=waiter["maxAttempts"] * waiter["delay"])
        folder = self.files / "models"
        changed = folder.joinpath(*own.parts[-3:])
        changed.parent.mkdir(parents=True, exist_ok=True)
        changed.write_text(json.dumps(waiters))
        return folder

    def aws(self, *words: str, code: int = 0, timeout: float = 1500) -> str:
        """Run `aws cloudformation …`, unmodified, and return what it prints."""
        done = subprocess.run(
            [CLIENTS / "aws", "cloudformation", *words], env=self.clients, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=timeout, cwd=self.files,
        )  # fmt: skip
        told = f"aws cloudformation {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.returncode == code, f"{told}\n{self.diary()}"
        return done.stdout

    def ask(self, *words: str) -> Any:
        """Run `aws cloudformation …` and return its JSON."""
        return json.loads(self.aws(*words, "--output", "json"))

    def boto3(self, script: str, *words: str, timeout: float = 1500) -> str:
        """Run a script with boto3 and return what it prints."""
        done = subprocess.run(
            [CLIENTS / "python", "-c", script, *words], env=self.clients, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=timeout, cwd=self.files,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.diary()}"
        return done.stdout

    def diary(self) -> str:
        """Return the newest events, for the message of a failed test."""
        return self.run("events", "--limit", "40").stdout[-6000:]

    def outputs(self, stack: str) -> dict[str, str]:
        """Return a stack's outputs."""
        found = self.ask("describe-stacks", "--stack-name", stack)["Stacks"][0]
        return {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}

    def places(self, stack: str) -> dict[str, str]:
        """Return the subject `DEPLOYABLE/ASSEMBLY` of each server of a stack by its logical name."""
        return {
            assembly["name"].rpartition("-")[0]: f"{each['name']}/{assembly['name']}"
            for each in self.statuses(f"{stack}-")
            for assembly in each["assemblies"]
        }

    def rebooted(self, subject: str, before: str) -> bool:
        """Tell whether a guest runs commands after another boot than the one before."""
        try:
            return self.answers(subject) and self.booted(subject) != before
        except (PcloudError, AssertionError, ValueError, subprocess.CalledProcessError):
            return False  # it went down between two questions

    def booted(self, subject: str) -> str:
        """Return what changes when a guest is started again."""
        return f"{self.guest_init(subject.replace('/', '.'))} {self.guest(subject, *BOOT)}"


def guarded_server(config: dict[str, Any], script: Any, ingress: list[dict[str, Any]]) -> dict[str, Any]:
    """Return resources: `Server`, a small one with cfn-init's metadata and user data, and its `Group`."""
    return {
        "Group": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {"GroupDescription": "some ports", "SecurityGroupIngress": ingress},
        },
        "Server": {
            "Type": "AWS::EC2::Instance",
            "Metadata": {"AWS::CloudFormation::Init": {"config": config}},
            "Properties": {
                "ImageId": "F17-x86_64-cfntools",
                "InstanceType": "m1.tiny",
                "SecurityGroups": [{"Ref": "Group"}],
                "UserData": {"Fn::Base64": script},
            },
        },
    }


def opener() -> urllib.request.OpenerDirector:
    """Return what asks without a proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def post(url: str) -> None:
    """Post nothing to a webhook."""
    with opener().open(urllib.request.Request(url, method="POST", data=b""), timeout=PATIENCE) as answer:
        assert answer.status == 200


def fetch(url: str) -> str:
    """Fetch a page, redirects followed; the reason where there is none."""
    try:
        with opener().open(url, timeout=30) as answer:
            return str(answer.read().decode(errors="replace"))
    except (urllib.error.URLError, OSError) as problem:
        return f"no page: {problem}"


def shows(url: str, text: str, seconds: float) -> None:
    """Wait until a page shows a text."""
    seconds = max(seconds, PATIENCE)
    deadline = time.monotonic() + seconds
    while text not in (page := fetch(url)):
        assert time.monotonic() < deadline, f"{url} does not show {text!r} within {seconds:g} s but:\n{page[:2000]}"
        time.sleep(0.25)
