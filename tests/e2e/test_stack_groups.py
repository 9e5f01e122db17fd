"""Alarms, the restarter, balancers, groups and scripts of stacks, on real guests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack_stage import opener, post
from tests.e2e.stack_stage import template as corpus
from tests.e2e.stage import PATIENCE, Stage, missing, until
from tests.ports import free_port
from tests.stacks.templates import alarm

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


class GroupStage(Stage):
    """A daemon whose stacks are driven by the native commands."""

    def begin(self) -> None:
        """Start the daemon."""
        keys = ("cloudformation", "cloudwatch", "heat")
        self.open("[stacks]\n" + "".join(f'{key} = "127.0.0.1:{free_port()}"\n' for key in keys))

    def make(self, name: str, template: dict[str, Any], *words: str, command: str = "create") -> None:
        """Make (or change) a stack and wait for it."""
        path = self.write(f"{name}.json", json.dumps(template))
        done = self.run("stack", command, name, "-t", path, "--wait", *words)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.run('events', '--limit', '40').stdout}"

    def remove(self, name: str) -> None:
        """Delete a stack and see that nothing is left of it."""
        self.pcloud("stack", "delete", name, "--wait")
        assert [each for each in self.deployables() if each["name"].startswith(f"{name}-")] == []

    def record(self, name: str) -> dict[str, Any]:
        """Return a stack as the API shows it."""
        return self.api("GET", f"/v1/stacks/{name}")

    def api(self, method: str, path: str) -> Any:
        """Ask the native API."""
        token = (self.home / "token").read_text().strip()
        request = urllib.request.Request(
            self.environment["PCLOUD_URL"] + path, method=method, headers={"X-Auth-Token": token}
        )
        with opener().open(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def outputs(self, name: str) -> dict[str, str]:
        """Return a stack's outputs."""
        return {each["OutputKey"]: each["OutputValue"] for each in self.record(name)["Outputs"]}

    def reasons(self, name: str, resource: str) -> list[str]:
        """Return what the stack's events say of a resource, oldest first."""
        found = self.api("GET", f"/v1/stacks/{name}/events")
        return [e.get("ResourceStatusReason") or "" for e in found if e["LogicalResourceId"] == resource]

    def places(self, name: str) -> dict[str, str]:
        """Return `DEPLOYABLE/ASSEMBLY` of each guest of a stack and those nested in it, by the assembly's name."""
        return {
            assembly["name"].rpartition("-")[0]: f"{each['name']}/{assembly['name']}"
            for each in self.statuses(f"{name}-")
            for assembly in each["assemblies"]
        }

    def booted(self, place: str) -> int:
        """Return what changes when a guest is started again."""
        return self.guest_init(place.replace("/", "."))


def page(url: str) -> str:
    """Fetch a page; empty when none answers."""
    try:
        with opener().open(url, timeout=30) as answer:
            return str(answer.read().decode(errors="replace"))
    except (urllib.error.URLError, OSError):
        return ""


@pytest.fixture(scope="module")
def stage() -> Iterator[GroupStage]:
    """A daemon of our own."""
    if lacking := missing():
        pytest.skip(lacking)
    stage = GroupStage("g")
    stage.begin()
    try:
        yield stage
    finally:
        stage.close()


def guest(service: str, *packages: str) -> dict[str, Any]:
    """A guest whose service the engine keeps running."""
    config: dict[str, Any] = {"services": {"systemd": {service: {"enabled": "true", "ensureRunning": "true"}}}}
    if packages:
        config["packages"] = {"apt": {name: [] for name in packages}}
    return {
        "Type": "AWS::EC2::Instance",
        "Metadata": {"AWS::CloudFormation::Init": {"config": config}},
        "Properties": {"ImageId": "bookworm-cfntools", "InstanceType": "m1.small"},
    }


ALARM = alarm(AlarmActions=[{"Fn::GetAtt": ["Restart", "AlarmUrl"]}])
HA = {
    "AWSTemplateFormatVersion": "2010-09-09",
    "Resources": {
        "Victim": guest("apache2", "apache2"),
        "Other": {**guest("apache2", "apache2"), "DependsOn": "Victim"},
        "Restart": {"Type": "OS::Heat::HARestarter", "Properties": {"InstanceId": {"Ref": "Victim"}}},
        "Alarm": ALARM,
    },
}


def kill_service(stage: GroupStage, place: str, unit: str, times: int) -> None:
    """Kill a service and wait until the engine has it again, some times."""
    for _ in range(times):
        before = stage.main_pid(place, unit)
        cursor = stage.cursor()
        stage.guest(place, "systemctl", "kill", "-s", "KILL", unit)
        stage.told(cursor, f"{place}/{unit}", "running")
        until("it runs again", lambda before=before: stage.main_pid(place, unit) not in ("0", before), 60)


def test_three_failures_of_a_service_restart_its_guest_and_nothing_else(stage: GroupStage) -> None:
    stage.make("ha", HA)
    places = stage.places("ha")
    victim, other = places["victim"], places["other"]
    deployable = victim.partition("/")[0]
    stage.running(deployable, 120)
    physical = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in stage.record("ha")["Resources"]}
    booted = {place: stage.booted(place) for place in (victim, other)}
    service = stage.main_pid(other, "apache2")
    stage.guest(victim, "sh", "-c", "echo kept >/var/tmp/kept; sync")
    kill_service(stage, victim, "apache2", 2)
    assert stage.booted(victim) == booted[victim]
    began = time.monotonic()
    stage.guest(victim, "systemctl", "kill", "-s", "KILL", "apache2")
    until("the guest was started again", lambda: _new_init(stage, victim, booted[victim]), 60)
    stage.running(deployable, 120)
    print(f"third failure to everything running again: {time.monotonic() - began:.1f} s")
    assert stage.guest(victim, "cat", "/var/tmp/kept") == "kept", "the guest keeps its disk"
    assert stage.guest(victim, "systemctl", "is-active", "apache2") == "active"
    assert (stage.booted(other), stage.main_pid(other, "apache2")) == (booted[other], service)
    assert any("restarting Victim" in reason for reason in stage.reasons("ha", "Restart"))
    assert any("alarm state ALARM" in reason for reason in stage.reasons("ha", "Alarm"))
    now = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in stage.record("ha")["Resources"]}
    assert now == physical, "nothing was made anew"
    told = [event["data"] for event in stage.events() if event["type"].endswith("escalation")]
    assert len(told) == 1
    assert "Threshold Crossed" in told[0]["reason"]
    stage.remove("ha")


def _new_init(stage: GroupStage, place: str, before: int) -> bool:
    try:
        return stage.booted(place) not in (0, before)
    except (subprocess.CalledProcessError, ValueError):
        return False  # between its end and its start


BALANCED = {
    "AWSTemplateFormatVersion": "2010-09-09",
    "Resources": {
        "One": guest("apache2", "apache2"),
        "Two": guest("apache2", "apache2"),
        "Balancer": {
            "Type": "AWS::ElasticLoadBalancing::LoadBalancer",
            "Properties": {
                "AvailabilityZones": {"Fn::GetAZs": ""},
                "Instances": [{"Ref": "One"}, {"Ref": "Two"}],
                "Listeners": [{"LoadBalancerPort": "80", "InstancePort": "80", "Protocol": "HTTP"}],
                "HealthCheck": {
                    "Target": "HTTP:80/", "HealthyThreshold": "2", "UnhealthyThreshold": "2",
                    "Interval": "1", "Timeout": "20",
                },
            },
        },
    },
    "Outputs": {"url": {"Value": {"Fn::Join": ["", ["http://", {"Fn::GetAtt": ["Balancer", "DNSName"]}, "/"]]}}},
}  # fmt: skip


def test_a_page_answers_while_one_of_two_guests_is_dead(stage: GroupStage) -> None:
    stage.make("lb", BALANCED)
    url = stage.outputs("lb")["url"]
    places = stage.places("lb")
    for name in ("one", "two"):
        stage.running(places[name].partition("/")[0], 120)
        stage.guest(places[name], "sh", "-c", f"echo I am {name} >/var/www/html/index.html")

    def seen() -> Counter[str]:
        return Counter(page(url).strip() for _ in range(6))

    until("both answer", lambda: set(seen()) == {"I am one", "I am two"}, 60)
    stage.pcloud("pause", places["one"].partition("/")[0])  # so that the dead guest stays dead
    stage.guest(places["one"], "systemctl", "kill", "-s", "KILL", "apache2")
    stage.guest(places["one"], "systemctl", "mask", "--now", "apache2")
    answers = Counter(page(url).strip() for _ in range(40))
    assert answers["I am two"] >= 39, answers
    until("only the living is asked", lambda: set(seen()) == {"I am two"}, 30)
    stage.guest(places["one"], "systemctl", "unmask", "apache2")
    stage.pcloud("resume", places["one"].partition("/")[0])
    until("both answer again", lambda: set(seen()) == {"I am one", "I am two"}, 90)

    # The balancer's guest dies too: it comes back with its configuration.
    os.kill(stage.booted(places["balancer"]), signal.SIGKILL)
    until("both answer again", lambda: set(seen()) == {"I am one", "I am two"}, 120)
    stage.remove("lb")


def test_wordpress_with_high_availability_from_the_corpus(stage: GroupStage) -> None:
    """`WordPress_Single_Instance_With_HA.yaml`, unmodified: its alarm and its restarter do what they say."""
    template = corpus("cfn/F17/WordPress_Single_Instance_With_HA.yaml")
    done = stage.run("stack", "create", "wpha", "-t", str(template), "-p", "KeyName=anybody", "--wait")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{stage.run('events', '--limit', '40').stdout}"
    url = stage.outputs("wpha")["WebsiteURL"]
    until("the page answers", lambda: "WordPress" in page(url), 120)
    place = stage.places("wpha")["wikidatabase"]
    deployable = place.partition("/")[0]
    stage.running(deployable, 300)
    booted = stage.booted(place)

    # What its hook does when the service had failed: the tool in the guest, with the stack's own key.
    pushed = "/etc/cfn/notify-on-httpd-restarted"
    for _ in range(2):
        stage.guest(place, pushed)
    until("they were counted", lambda: any("state OK" in r for r in stage.reasons("wpha", "HttpFailureAlarm")), 30)
    assert stage.booted(place) == booted, "two are not more than two"

    # The third failure is a real one.
    stage.guest(place, "systemctl", "kill", "-s", "KILL", "apache2")
    until("the guest was started again", lambda: _new_init(stage, place, booted), 60)
    until("the page answers", lambda: "WordPress" in page(url), 120)
    stage.running(deployable, 120)
    assert any("restarting WikiDatabase" in reason for reason in stage.reasons("wpha", "WebServerRestartPolicy"))
    assert sum("alarm state ALARM" in reason for reason in stage.reasons("wpha", "HttpFailureAlarm")) == 1
    stage.remove("wpha")


SCRIPTED = {
    "heat_template_version": "2018-08-31",
    "resources": {
        "server": {"type": "AWS::EC2::Instance", "properties": {"ImageId": "bookworm-cfntools"}},
        "config": {
            "type": "OS::Heat::SoftwareConfig",
            "properties": {
                "group": "script",
                "inputs": [{"name": "who"}],
                "outputs": [{"name": "result"}],
                "config": '#!/bin/sh\necho "hello $who"\nhostname >$heat_outputs_path.result\n',
            },
        },
        "deployment": {
            "type": "OS::Heat::SoftwareDeployment",
            "properties": {
                "config": {"get_resource": "config"},
                "server": {"get_resource": "server"},
                "input_values": {"who": "a 'guest'"},
            },
        },
    },
    "outputs": {
        name: {"value": {"get_attr": ["deployment", name]}}
        for name in ("result", "deploy_stdout", "deploy_status_code")
    },
}


def test_a_script_runs_in_a_guest_and_tells_what_came_of_it(stage: GroupStage) -> None:
    stage.make("soft", SCRIPTED)
    place = stage.places("soft")["server"]
    outputs = stage.outputs("soft")
    assert outputs["deploy_stdout"] == "hello a 'guest'\n"
    assert str(outputs["deploy_status_code"]) == "0"
    assert outputs["result"] == stage.guest(place, "hostname")
    stage.remove("soft")


GROUP: dict[str, Any] = {
    "AWSTemplateFormatVersion": "2010-09-09",
    "Resources": {
        "Balancer": {
            "Type": "AWS::ElasticLoadBalancing::LoadBalancer",
            "Properties": {
                "AvailabilityZones": {"Fn::GetAZs": ""},
                "Listeners": [{"LoadBalancerPort": "80", "InstancePort": "80", "Protocol": "HTTP"}],
                "HealthCheck": {"Target": "HTTP:80/", "Interval": "1", "Timeout": "20", "HealthyThreshold": "1"},
            },
        },
        "Config": {
            "Type": "AWS::AutoScaling::LaunchConfiguration",
            "Properties": {"ImageId": "bookworm-cfntools", "InstanceType": "m1.small"},
        },
        "Group": {
            "Type": "AWS::AutoScaling::AutoScalingGroup",
            "Properties": {
                "AvailabilityZones": {"Fn::GetAZs": ""},
                "LaunchConfigurationName": {"Ref": "Config"},
                "LoadBalancerNames": [{"Ref": "Balancer"}],
                "MinSize": "1",
                "MaxSize": "2",
                "Cooldown": "0",
            },
        },
        "Up": {
            "Type": "AWS::AutoScaling::ScalingPolicy",
            "Properties": {
                "AutoScalingGroupName": {"Ref": "Group"},
                "AdjustmentType": "ChangeInCapacity",
                "ScalingAdjustment": "1",
            },
        },
        "Down": {
            "Type": "AWS::AutoScaling::ScalingPolicy",
            "Properties": {
                "AutoScalingGroupName": {"Ref": "Group"},
                "AdjustmentType": "ChangeInCapacity",
                "ScalingAdjustment": "-1",
            },
        },
        "Busy": {
            "Type": "AWS::CloudWatch::Alarm",
            "Properties": {
                "MetricName": "CPUUtilization",
                "Namespace": "AWS/EC2",
                "Statistic": "Maximum",
                "Period": "30",
                "EvaluationPeriods": "1",
                "Threshold": "20",
                "ComparisonOperator": "GreaterThanThreshold",
                "Dimensions": [{"Name": "AutoScalingGroupName", "Value": {"Ref": "Group"}}],
                "AlarmActions": [{"Ref": "Up"}],
            },
        },
    },
    "Outputs": {
        "url": {"Value": {"Fn::Join": ["", ["http://", {"Fn::GetAtt": ["Balancer", "DNSName"]}, "/"]]}},
        "down": {"Value": {"Fn::GetAtt": ["Down", "AlarmUrl"]}},
    },
}


def favour(stage: GroupStage, place: str) -> None:
    """Let a guest have the processors before everybody else: on a machine that is busy itself it could not be."""
    init = Path(f"/proc/{stage.booted(place)}/cgroup").read_text().splitlines()
    for group in {line.split(":", 2)[2].split("/")[1] for line in init}:
        for file, weight in ((f"cpu/{group}/cpu.shares", "200000"), (f"{group}/cpu.weight", "10000")):
            if (path := Path("/sys/fs/cgroup", file)).exists():
                path.write_text(weight)


def test_a_busy_group_grows_behind_its_balancer_and_shrinks_by_its_webhook(stage: GroupStage) -> None:
    stage.make("asg", GROUP)
    outputs, places = stage.outputs("asg"), stage.places("asg")
    assert set(places) == {"balancer", "member0"}
    serve = (
        "echo I am $(hostname) >/var/tmp/index.html; cd /var/tmp; setsid -f python3 -m http.server 80 >/dev/null 2>&1"
    )
    stage.guest(places["member0"], "sh", "-c", serve)
    until("the balancer serves the first", lambda: "I am member0" in page(outputs["url"]), 60)
    favour(stage, places["member0"])
    busy = "setsid -f timeout 700 sh -c 'while [ ! -e /run/calm ]; do :; done' >/dev/null 2>&1"
    stage.guest(places["member0"], "sh", "-c", busy)
    until("the group grew", lambda: "member1" in stage.places("asg"), 600)
    stage.guest(places["member0"], "touch", "/run/calm")
    second = stage.places("asg")["member1"]
    stage.running(second.partition("/")[0], 120)
    stage.guest(second, "sh", "-c", serve)
    until("the balancer serves the second", lambda: "I am member1" in page(outputs["url"]), 60)
    post(outputs["down"])
    until("the group shrank", lambda: set(stage.places("asg")) == {"balancer", "member0"}, 120)
    # A deployable is gone for its users before the last of its guest is, and the balancer is told after that.
    until("only the first is asked", lambda: {page(outputs["url"])[:12] for _ in range(10)} == {"I am member0"})
    stage.remove("asg")


def test_autoscaling_from_the_corpus(stage: GroupStage) -> None:
    """`hot/autoscaling.yaml`: a group behind Octavia's objects, which its webhook makes larger. Unmodified but for the alarm
    that makes an idle group smaller again, once a minute: here it might come between."""
    text = corpus("hot/autoscaling.yaml").read_text().replace("threshold: 15", "threshold: 0")
    template = stage.write("autoscaling.yaml", text)
    stage.write("lb_server.yaml", corpus("hot/lb_server.yaml").read_text())
    given = {
        "image": "F17-x86_64-cfntools", "key": "k", "flavor": "m1.small", "database_flavor": "m1.small",
        "network": "private", "subnet_id": "private", "external_network_id": "public",
    }  # fmt: skip
    words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    done = stage.run("stack", "create", "auto", "-t", template, "-f", "lb_server.yaml", *words, "--wait")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{stage.run('events', '--limit', '40').stdout}"
    balancer = stage.places("auto")["lb"]

    def behind() -> int:
        return stage.guest(balancer, "cat", "/etc/haproxy/haproxy.cfg").count("\n    server ")

    assert behind() == 1
    post(stage.outputs("auto")["scale_up_url"])
    until("the balancer serves two", lambda: behind() == 2, 120)
    stage.remove("auto")
