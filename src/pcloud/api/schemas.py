"""The bodies of requests and the shapes of answers, for validation at the edge and for OpenAPI. Nothing inside uses them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pcloud.model.deployable import ResourceState

Name = Annotated[str, StringConstraints(min_length=1, max_length=127)]


class Body(BaseModel):
    """A request body: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid")


class ProblemModel(BaseModel):
    """One problem."""

    code: str
    message: str
    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    hint: str = ""


class Errors(BaseModel):
    """The body of every refusal: all problems at once."""

    errors: list[ProblemModel]


class Version(BaseModel):
    """`GET /v1/version`."""

    version: str
    api: str
    host: str


class Summary(BaseModel):
    """One line of the list of deployables."""

    name: str
    state: ResourceState
    reason: str
    infrastructure: str
    target: str
    paused: bool
    change: str
    assemblies: int
    running: int
    since: float


class Resource(BaseModel):
    """State of a resource."""

    name: str
    state: ResourceState
    reason: str
    failures: int
    since: float


class Assembly(BaseModel):
    """State of an assembly."""

    name: str
    state: ResourceState
    address: str
    place: str
    reason: str
    failures: int
    since: float
    resources: list[Resource]


class Status(BaseModel):
    """State of a deployable with all that is in it."""

    name: str
    state: ResourceState
    reason: str
    infrastructure: str
    target: str
    paused: bool
    change: str
    since: float
    assemblies: list[Assembly]


class StandstillModel(BaseModel):
    """Something that is not being done at the moment."""

    subject: str
    rule: str
    text: str
    next: str
    since: float
    until: float


class AppliedModel(BaseModel):
    """What applying a document did, or would do."""

    name: str
    created: bool
    changed: list[str]


class JobReference(BaseModel):
    """Names a job that goes on."""

    job: str


class JobModel(BaseModel):
    """A job."""

    id: str
    kind: str
    subject: str
    state: str
    progress: float
    message: str
    errors: list[ProblemModel]
    created: float
    updated: float


class EmptyDeployable(Body):
    """Makes an empty deployable."""

    name: Name
    infrastructure: Name = "lxc"
    username: Annotated[str, StringConstraints(max_length=64)] = ""
    monitor: str = "am"


class RecoverBody(Body):
    """What to take up again; all of it when empty."""

    assembly: Annotated[str, StringConstraints(max_length=127)] = ""
    resource: Annotated[str, StringConstraints(max_length=127)] = ""


class AssemblyReference(Body):
    """Names a library assembly."""

    assembly: Name


class ExecBody(Body):
    """A command to run in a guest."""

    argv: Annotated[list[Annotated[str, StringConstraints(max_length=131072)]], Field(min_length=1, max_length=1024)]
    stdin: str = ""
    """Base64."""
    timeout: Annotated[float, Field(gt=0, le=3600)] = 60.0


class ExecResultModel(BaseModel):
    """Outcome of a command; the outputs are base64."""

    returncode: int
    stdout: str
    stderr: str


class AssemblyInDeployable(BaseModel):
    """An assembly of a deployable."""

    name: str
    image: str
    arch: str
    state: str
    library: bool


class EventPage(BaseModel):
    """CloudEvents, and the cursor to go on from."""

    events: list[dict[str, Any]]
    next: int


class JeosModel(BaseModel):
    """A JEOS image, or the possibility of one."""

    name: str
    arch: str
    distribution: str
    state: str
    size: int
    created: float


class JeosBody(Body):
    """Names a JEOS."""

    name: Name
    arch: Name = "x86_64"


class LibraryBody(Body):
    """A new library assembly."""

    name: Name
    jeos: Name
    arch: Name = "x86_64"


class CloneBody(Body):
    """The clone's name."""

    to: Name


class ResourceBody(Body):
    """A new resource from a template."""

    name: Name
    template: Name


class EscalationBody(Body):
    """`failures` within `period` seconds escalate."""

    failures: Annotated[int, Field(ge=1, le=1_000_000)]
    period: Annotated[float, Field(gt=0, le=31_536_000)]


class LibraryResource(BaseModel):
    """A resource of a library assembly."""

    name: str
    template: str
    resource_class: str
    type: str
    escalation: EscalationBody


class LibraryAssembly(BaseModel):
    """A library assembly."""

    name: str
    jeos: str
    arch: str
    resources: list[LibraryResource]
    escalation: EscalationBody
    deployables: list[str]


class Template(BaseModel):
    """A resource template."""

    name: str
    description: str
    aliases: list[str]


class TokenBody(Body):
    """A new token."""

    name: Name
    role: str


class TokenModel(BaseModel):
    """A token; `token` is there in the answer to its creation only."""

    name: str
    role: str
    created: float
    token: str = ""


class ShutdownBody(Body):
    """How much to stop."""

    engines: bool = False
    """The engine processes too; guests go on."""
    guests: bool = False
    """Stop every deployable first."""


class CheckModel(BaseModel):
    """One line of `doctor`."""

    check: str
    state: str
    detail: str
    hint: str
