"""The shapes of the API's answers, as the client decodes them.

Fields that a newer daemon adds are ignored, fields that an older one lacks have defaults, so that client and daemon
need not be upgraded at the same moment. Deployables' states are the shared `pcloud.model.status`.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/version`."""

    version: str
    api: str = "v1"
    host: str = ""


class DeployableSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `GET /v1/deployables`."""

    name: str
    state: str
    reason: str = ""
    infrastructure: str = ""
    target: str = ""
    paused: bool = False
    change: str = ""
    """What was applied last and is not brought about, while what ran before goes on: `building` its images, or `failed`."""
    assemblies: int = 0
    running: int = 0
    """How many of the assemblies run."""
    since: float = 0.0


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What applying a manifest did, or would do."""

    name: str
    created: bool = False
    changed: tuple[str, ...] = ()
    """Paths inside the document that differ from what was there."""


class JobRef(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that may name a job that goes on."""

    job: str = ""


class ProblemRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A problem as the API writes it."""

    code: str = "ERROR"
    message: str = ""
    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    hint: str = ""


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every refusal."""

    errors: tuple[ProblemRecord, ...]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Something long that the daemon does: an image being built, a deployable being deleted."""

    id: str
    kind: str = ""
    subject: str = ""
    state: str = "running"
    """`running`, `done`, `failed` or `cancelled`."""
    progress: float = 0.0
    """0 to 1."""
    message: str = ""
    errors: tuple[ProblemRecord, ...] = ()


class Jeos(msgspec.Struct, frozen=True, kw_only=True):
    """A just-enough-OS image, or the possibility of one."""

    name: str
    arch: str
    distribution: str = ""
    state: str = ""
    """`absent`, `building`, `ready` or `failed`."""
    size: int | None = None
    """Bytes; 0 or null while there is none."""
    created: float | str | None = None


class LibraryResource(msgspec.Struct, frozen=True, kw_only=True):
    """A resource of a library assembly."""

    name: str
    template: str = ""
    resource_class: str = ""
    type: str = ""


class LibraryAssembly(msgspec.Struct, frozen=True, kw_only=True):
    """An assembly of the library, from which deployables are put together."""

    name: str
    jeos: str = ""
    arch: str = ""
    resources: tuple[str | LibraryResource, ...] = ()
    deployables: tuple[str, ...] = ()


class DeployableAssembly(msgspec.Struct, frozen=True, kw_only=True):
    """One assembly of a deployable, as listed for the shell."""

    name: str
    state: str = ""
    image: str = ""


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A resource template."""

    name: str
    description: str = ""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An access token; `token` itself is in the answer to its creation only."""

    name: str
    role: str = ""
    token: str = ""
    created: float | str | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `doctor`."""

    check: str
    state: str
    """`ok`, `warning` or `missing`."""
    detail: str = ""
    hint: str = ""


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the CloudEvents 1.0 JSON form."""

    specversion: str = "1.0"
    id: str
    """The sequence number in the daemon's log: the cursor."""
    source: str = ""
    type: str = ""
    subject: str = ""
    time: str = ""
    datacontenttype: str = "application/json"
    data: dict[str, Any] = {}

    def text(self, name: str) -> str:
        """Return a data field as text; empty when it is absent or not text."""
        value = self.data.get(name, "")
        return value if isinstance(value, str) else ""


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the log."""

    events: tuple[CloudEvent, ...]
    next: int | str = 0


class ExecReply(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a command in a guest."""

    returncode: int
    stdout: bytes = b""
    stderr: bytes = b""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """Something a decision was based on."""

    what: str = ""
    subject: str = ""
    """`ASSEMBLY` or `ASSEMBLY/RESOURCE`; empty for the deployable itself."""
    signal: str = ""
    detail: str = ""
    time: float = 0.0


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that a decision applied."""

    rule: str = ""
    text: str = ""
    subject: str = ""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Something a decision did."""

    action: str = ""
    subject: str = ""
    why: str = ""
    state: str = ""
    """`done`, `failed` or `cancelled`; `running` or empty before that."""
    seconds: float | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One journalled decision: what `explain` tells of."""

    time: float = 0.0
    number: int = 0
    trigger: str = ""
    observations: tuple[Observation, ...] = ()
    rules: tuple[Rule, ...] = ()
    actions: tuple[Action, ...] = ()
    cost: dict[str, float] = {}
    outcome: str = ""
