"""The CloudFormation endpoint in this process, called with boto3."""

from __future__ import annotations

import asyncio
from typing import Any

import boto3
import botocore.config

from pcloud.stacks.engine.manager import StackManager


class Server:
    """A served manager, and a key for it."""

    def __init__(self, manager: StackManager, url: str) -> None:
        self.manager = manager
        self.url = url
        self.key, self.secret = manager.make_key("tester", "", "test")

    def client(self, **more: Any) -> Any:
        return boto3.client(
            "cloudformation",
            region_name="local",
            endpoint_url=self.url,
            aws_access_key_id=more.get("key", self.key),
            aws_secret_access_key=more.get("secret", self.secret),
            config=botocore.config.Config(proxies={}, retries={"max_attempts": 0}),
        )

    async def call(self, name: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client(), name), **arguments)

    async def wait(self, name: str, stack: str) -> None:
        waiter = self.client().get_waiter(name)
        await asyncio.to_thread(waiter.wait, StackName=stack, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
