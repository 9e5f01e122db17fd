"""Auto Scaling's operations on the groups of stacks: look at them, set a size, run a policy, suspend and resume.

Each takes the parsed input and gives the output as plain data. Groups are made and changed by their stacks alone.
"""

from __future__ import annotations

from typing import Any

from pcloud.api.aws.operations import Caller, Input, Output, Table
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.types.autoscaling import AwsAutoScalingGroup
from pcloud.stacks.types.base import ResourceFailed
from pcloud.stacks.types.scaling import SUSPENDABLE, Adjustment
from pcloud.stacks.types.scaling_policies import AwsScalingPolicy

OPERATIONS = Table()


def _found(manager: StackManager, kind: type[Any], name: str, word: str) -> ResourceRecord:
    record = manager.find(name)
    if record is None or not isinstance(manager.type_of(record), kind):
        raise QueryError("ValidationError", f"{word} name not found - {name[:100]}")
    return record


@OPERATIONS.operation
async def describe_auto_scaling_groups(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Show groups with their instances."""
    wanted = given.get("AutoScalingGroupNames")
    shown = []
    for stack in manager.stacks.values():
        for record in manager.current(stack).values():
            kind = manager.type_of(record)
            if not isinstance(kind, AwsAutoScalingGroup) or not record.physical:
                continue
            name = str(kind.reference(record, manager))
            if wanted and name not in wanted:
                continue
            given_here = record.properties
            shown.append(
                {
                    "AutoScalingGroupName": name,
                    "LaunchConfigurationName": given_here.get("LaunchConfigurationName"),
                    "MinSize": given_here["MinSize"],
                    "MaxSize": given_here["MaxSize"],
                    "DesiredCapacity": manager.size_of(record),
                    "DefaultCooldown": given_here.get("Cooldown") or 0,
                    "AvailabilityZones": given_here.get("AvailabilityZones") or ["nova"],
                    "LoadBalancerNames": given_here.get("LoadBalancerNames") or [],
                    "HealthCheckType": given_here.get("HealthCheckType") or "EC2",
                    "CreatedTime": record.created,
                    "SuspendedProcesses": [
                        {"ProcessName": process, "SuspensionReason": "User suspended"}
                        for process in record.data.get("suspended") or []
                    ],
                    "Instances": [
                        {
                            "InstanceId": identity,
                            "AvailabilityZone": "nova",
                            "LifecycleState": "InService",
                            "HealthStatus": "Healthy",
                            "ProtectedFromScaleIn": False,
                        }
                        for identity in kind.instances(record, manager)
                    ],
                }
            )
    return {"AutoScalingGroups": shown}


@OPERATIONS.operation
async def set_desired_capacity(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Set a group's size; its members follow."""
    group = _found(manager, AwsAutoScalingGroup, given["AutoScalingGroupName"], "AutoScalingGroup")
    wanted = int(given["DesiredCapacity"])
    low, high = group.properties["MinSize"], group.properties["MaxSize"]
    if not low <= wanted <= high:
        raise QueryError("ValidationError", f"New SetDesiredCapacity value {wanted} is not between {low} and {high}.")
    if given.get("HonorCooldown") and manager.now() < group.data.get("until", 0.0):
        raise QueryError("ScalingActivityInProgress", "the group cools down")
    await manager.scale(group, Adjustment(group=group.physical, kind="ExactCapacity", amount=wanted, asked=True))
    return {}


@OPERATIONS.operation
async def execute_policy(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Run a policy as its signal does."""
    policy = _found(manager, AwsScalingPolicy, given["PolicyName"], "Policy")
    details = {"value": given.get("MetricValue"), "threshold": given.get("BreachThreshold")}
    try:
        await manager.signal(
            policy, {"status": "SUCCESS", "reason": "ExecutePolicy", "id": "", "data": "", "details": details}
        )
    except ResourceFailed as problem:
        raise QueryError("ValidationError", str(problem)) from None
    return {}


async def _suspend(manager: StackManager, given: Input, *, suspended: bool) -> Output:
    group = _found(manager, AwsAutoScalingGroup, given["AutoScalingGroupName"], "AutoScalingGroup")
    named = given.get("ScalingProcesses") or list(SUSPENDABLE)
    unknown = [name for name in named if name not in SUSPENDABLE]
    if unknown:
        raise QueryError(
            "ValidationError", f"{unknown[0][:60]} can not be suspended here; {', '.join(SUSPENDABLE)} can"
        )
    now = set(group.data.get("suspended") or [])
    group.data["suspended"] = sorted(now | set(named) if suspended else now - set(named))
    manager.save(group)
    await manager.store.flush()
    if not suspended:
        manager.resume_scaling()
    return {}


@OPERATIONS.operation
async def suspend_processes(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Let a group be: without AlarmNotification policies are not heard, without Launch or Terminate it does not follow."""
    return await _suspend(manager, given, suspended=True)


@OPERATIONS.operation
async def resume_processes(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Take up again what was suspended."""
    return await _suspend(manager, given, suspended=False)
