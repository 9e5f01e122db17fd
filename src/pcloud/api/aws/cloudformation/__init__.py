"""CloudFormation's operations: each takes the parsed input and gives the output as plain data."""

from pcloud.api.aws.cloudformation import account, changesets, drift, events, resources, stacks, templates
from pcloud.api.aws.cloudformation.requests import OPERATIONS

__all__ = ["OPERATIONS", "account", "changesets", "drift", "events", "resources", "stacks", "templates"]
