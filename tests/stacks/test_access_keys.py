"""Access keys of stacks: what their status says."""

from __future__ import annotations

import json

import pytest

from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source


def keyed(status: str) -> Source:
    resources = {
        "User": {"Type": "AWS::IAM::User"},
        "Key": {"Type": "AWS::IAM::AccessKey", "Properties": {"UserName": {"Ref": "User"}, "Status": status}},
    }
    return Source(template=json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}))


async def test_an_inactive_key_signs_nothing_until_it_is_made_active(manager: StackManager) -> None:
    stack = await manager.create("s", keyed("Inactive"))
    await manager.wait(stack)
    (key,) = manager.keys.values()
    assert not key.active
    for status, active in (("Active", True), ("Inactive", False)):
        await manager.update(stack, keyed(status))
        await manager.wait(stack)
        assert stack.status == "UPDATE_COMPLETE", stack.reason
        assert manager.keys[key.id].active is active
        assert manager.keys[key.id].secret == key.secret, "the same key"
    with pytest.raises(InvalidDocument, match="Status"):
        await manager.create("other", keyed("Sleeping"))


async def test_a_handle_that_signals_through_a_queue_is_refused(manager: StackManager) -> None:
    handle = {"type": "OS::Heat::WaitConditionHandle", "properties": {"signal_transport": "ZAQAR_SIGNAL"}}
    source = Source(template=json.dumps({"heat_template_version": "2018-08-31", "resources": {"h": handle}}))
    with pytest.raises(InvalidDocument, match="no message queue"):
        await manager.create("s", source)
