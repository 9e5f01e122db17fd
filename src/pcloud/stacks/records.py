"""What is known of stacks while they live: the records that the store keeps, and the words of their states.

Records are mutable structs that belong to the engine's event loop; the store gets them encoded.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import msgspec

COMPLETE = "COMPLETE"
FAILED = "FAILED"
IN_PROGRESS = "IN_PROGRESS"
EXTERNAL = "pcloud:external"
"""What a resource is made as that stands for another stack's thing (`external_id`)."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a stack is made from: what a client sent."""

    template: str
    """Text of the template (JSON when the client sent an object)."""
    parameters: dict[str, Any] = {}
    files: dict[str, str] = {}
    """Files by the names that the template uses (Heat)."""
    registry: dict[str, Any] = {}
    """The environment's resource_registry (Heat)."""
    defaults: dict[str, Any] = {}
    """The environment's parameter_defaults."""
    tags: dict[str, str] = {}
    capabilities: tuple[str, ...] = ()
    notifications: tuple[str, ...] = ()


class Operation(msgspec.Struct, kw_only=True):
    """What is being done to a stack. Stored before anything is done, so that a restart carries on from `phase`."""

    action: str
    """`CREATE`, `UPDATE`, `DELETE`, `SUSPEND`, `RESUME` or `CHECK`."""
    phase: str
    """`forward`, `cleanup`, `rollback`, `rollback-cleanup`, `undo` (delete after a failed create), `delete`, `suspend`,
    `resume` or `check`."""
    generation: int
    target: Source | None = None
    previous: Source | None = None
    """What the stack was made from before an update."""
    started: float = 0.0
    deadline: float = 0.0
    """Wall-clock time; 0 means none."""
    on_failure: str = "ROLLBACK"
    """`ROLLBACK`, `DELETE` or `DO_NOTHING`."""
    reason: str = ""
    """Why it was turned round."""
    skip: tuple[str, ...] = ()
    """Resources that a continued rollback leaves alone."""
    retain: tuple[str, ...] = ()
    """Resources that a delete leaves alone."""
    token: str = ""
    """The client's request token."""
    change_set: str = ""
    policy: dict[str, Any] | None = None
    """A stack policy for this update only."""
    only: tuple[str, ...] | None = None
    """Resources that an update is about; others that are there and whole stay as they are. None for all."""


class StackRecord(msgspec.Struct, kw_only=True):
    """One stack."""

    id: str
    name: str
    status: str
    """CloudFormation's word, such as `UPDATE_ROLLBACK_IN_PROGRESS`."""
    reason: str = ""
    source: Source | None = None
    """What it is made from now; None while only a change set made it."""
    description: str = ""
    created: float = 0.0
    updated: float = 0.0
    deleted: float = 0.0
    generation: int = 0
    timeout: int = 0
    """Minutes; 0 means none."""
    disable_rollback: bool = False
    protected: bool = False
    policy: dict[str, Any] | None = None
    role: str = ""
    parent: str = ""
    """Id of the parent stack of a nested one."""
    parent_resource: str = ""
    root: str = ""
    outputs: dict[str, Any] = {}
    """Name → {value, description, export}."""
    operation: Operation | None = None
    drift: dict[str, Any] = {}
    owner: str = "cfn"
    """Through which API it was made: `cfn`, `heat` or `native`; only words differ."""

    @property
    def live(self) -> bool:
        """Whether the name is still taken."""
        return self.status != "DELETE_COMPLETE"

    @property
    def busy(self) -> bool:
        """Whether an operation is on its way."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted."""
        return self.busy and self.operation is not None and self.operation.action == "DELETE"

    @property
    def suspended(self) -> bool:
        """Whether its guests are stopped, or being stopped, until it is resumed."""
        return self.status.startswith("SUSPEND_")


class ResourceRecord(msgspec.Struct, kw_only=True):
    """One thing that was made for a resource of a stack; after a replacement there are two until the old one is deleted."""

    id: str
    stack: str
    name: str
    type: str
    status: str
    """`CREATE_IN_PROGRESS` … in CloudFormation's words."""
    reason: str = ""
    physical: str = ""
    generation: int = 0
    properties: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    data: dict[str, Any] = {}
    """What the type needs to know about it."""
    requires: tuple[str, ...] = ()
    condemned: bool = False
    """No longer wanted; deleted in the clean-up."""
    dirty: bool = False
    """An update of it did not come to its end: apply the properties again."""
    made_as: str = ""
    """What the type's name stood for in the environment when it was made: another type's name or a template file. Empty in
    records of before this was kept."""
    deletion_policy: str = "Delete"
    update_replace_policy: str = "Delete"
    created: float = 0.0
    updated: float = 0.0
    drift: dict[str, Any] = {}

    @property
    def shown_metadata(self) -> dict[str, Any]:
        """The metadata as guests get it: with the deployments that agents in a server shall carry out."""
        deployments = self.data.get("deployments")
        return {**self.metadata, "deployments": deployments} if deployments else self.metadata

    @property
    def action(self) -> str:
        """The first word of the status, such as `CREATE`."""
        return self.status.partition("_")[0]

    @property
    def state(self) -> str:
        """The last word of the status: COMPLETE, FAILED or IN_PROGRESS."""
        return self.status.partition("_")[2]


class StackEvent(msgspec.Struct, kw_only=True):
    """One line of a stack's event list."""

    id: str
    stack: str
    sequence: int
    time: float
    name: str
    """Logical id; the stack's name for events of the stack itself."""
    type: str
    physical: str
    status: str
    reason: str = ""
    properties: dict[str, Any] = {}
    token: str = ""


class ChangeSet(msgspec.Struct, kw_only=True):
    """A planned change that waits to be executed."""

    id: str
    name: str
    stack: str
    kind: str
    """`CREATE`, `UPDATE` or `IMPORT`."""
    status: str
    reason: str = ""
    execution: str = "AVAILABLE"
    source: Source
    base: int = 0
    """The stack's generation it was planned for."""
    created: float = 0.0
    description: str = ""
    changes: list[dict[str, Any]] = []
    on_failure: str = ""
    token: str = ""
    """The client's request token."""
    nested: bool = False
    """Whether it has the changes of nested stacks as well, in change sets of their own."""
    parent: str = ""
    """Id of the change set that one of a nested stack belongs to."""
    root: str = ""


class AccessKey(msgspec.Struct, kw_only=True):
    """An access key for signed requests, and where it is good for."""

    id: str
    secret: str
    user: str
    stack: str = ""
    """When set, the key may only read this stack's metadata and signal it."""
    created: float = 0.0
    active: bool = True


def new_id() -> str:
    """Return a fresh random id."""
    return str(uuid.uuid4())


def derived_id(*parts: str | int) -> str:
    """Return the id that follows from its parts: the same after a crash as before."""
    return str(
        uuid.UUID(bytes=hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()[:16], version=4)
    )


def short_hash(*parts: str | int, length: int = 12) -> str:
    """Return letters and digits that follow from the parts."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    return "".join(alphabet[byte % 32] for byte in digest[:length])
