"""Templates in both languages, and the resources that several files put into them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pcloud.stacks.records import Source


def instance(**properties: Any) -> dict[str, Any]:
    """An EC2 instance of an image that has cfn-init."""
    return {"Type": "AWS::EC2::Instance", "Properties": {"ImageId": "F17-x86_64-cfntools", **properties}}


def cfn(**resources: Mapping[str, Any]) -> Source:
    """A template of CloudFormation."""
    return Source(template=json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}))


def ref(name: str) -> dict[str, str]:
    """The physical id of another resource."""
    return {"Ref": name}


def hot(**resources: Mapping[str, Any]) -> Source:
    """A template of Heat."""
    return Source(template=json.dumps({"heat_template_version": "2018-08-31", "resources": resources}))


def alarm(**changes: Any) -> dict[str, Any]:
    """An alarm of failed services, with other properties where `changes` has them."""
    properties = {
        "MetricName": "ServiceFailure",
        "Namespace": "system/linux",
        "Statistic": "SampleCount",
        "Period": "300",
        "EvaluationPeriods": "1",
        "Threshold": "2",
        "ComparisonOperator": "GreaterThanThreshold",
        **changes,
    }
    return {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}
