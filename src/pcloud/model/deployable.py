"""What a deployable *is*: frozen structs, the vocabulary of every other room.

A deployable is a named set of assemblies (guests), their resources (services) and the order between them. These structs
are what remains after reading and validation: names are checked, defaults are filled in, times are seconds (float).
Whoever holds one may trust it; `pcloud.model.validation` says what was checked.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ResourceState(StrEnum):
    """State of a resource, an assembly or a deployable, as users see it."""

    UNKNOWN = "unknown"
    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"
    SUSPECT = "suspect"
    UNRECOVERABLE = "unrecoverable"
    BLOCKED = "blocked"
    """No decision can be made, so nothing is done: of a deployable as a whole, until the operator has it tried again."""
    PAUSED = "paused"


LOST = frozenset({ResourceState.FAILED, ResourceState.UNRECOVERABLE, ResourceState.BLOCKED})
"""States of what failed; as the state of a whole deployable it stays so without an operator."""


class Reference(msgspec.Struct, frozen=True, kw_only=True, tag="reference"):
    """A parameter's value that is taken from an assembly when it is needed, and again when it changes."""

    assembly: str
    attribute: str
    """`ipaddress` or `hostname`."""


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A named value given to a resource: OCF parameters, and the environment of `configure`."""

    name: str
    value: str | Reference
    secret: bool = False
    """Never shown in events, logs, `explain` or `get`."""


class Escalation(msgspec.Struct, frozen=True, kw_only=True):
    """The first `failures` - 1 failures within `period` seconds restart the thing itself; the next one escalates."""

    failures: int
    period: float


class ResourceLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one service may use of its guest; 0 is no limit of ours."""

    memory: int = 0
    """MiB."""
    cpus: float = 0.0
    """Cores."""
    tasks: int = 0
    """Processes and threads."""


NO_LIMITS = ResourceLimits()


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A service inside a guest."""

    name: str
    resource_class: str
    """`ocf`, `systemd`, `lsb` or `service`."""
    type: str
    provider: str = ""
    """For class `ocf` only, such as `heartbeat`."""
    template: str = ""
    """The resource template this came from, or empty."""
    monitor_interval: float = 10.0
    monitor_timeout: float = 20.0
    monitor_start_delay: float = 0.0
    """Seconds from the resource's start, or from when it was found running, to the first run of its monitor."""
    start_timeout: float = 60.0
    stop_timeout: float = 60.0
    parameters: tuple[Parameter, ...] = ()
    configure: tuple[str, ...] = ()
    """Argument vector of an executable in the guest that runs once before the service starts, with the parameters in
    its environment, and again (followed by a restart of the service) whenever a parameter's value changes."""
    escalation: Escalation = Escalation(failures=5, period=60.0)
    processes: tuple[str, ...] = ()
    """Names of the service's processes where the agent can not ask systemd for them: their exit triggers the monitor."""
    after: tuple[str, ...] = ()
    """Names of resources of the same assembly that start before this one and stop after it."""
    limits: ResourceLimits = NO_LIMITS
    """Changed while the service runs; no reason to restart it."""
    attached: bool = False
    """Added to a guest that is there: its image is not made for it. Set by stacks, not by documents."""


class FileAttributes(msgspec.Struct, frozen=True, kw_only=True):
    """Permissions and owner of one of an assembly's files, where they are not root's and 0644."""

    path: str
    mode: int = 0o644
    owner: str = "root:root"
    """`USER` or `USER:GROUP`, names or numbers, as the image knows them."""


class SeedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that one guest alone gets when it is made; never part of an image, gone with the guest."""

    path: str
    content: str
    mode: int = 0o600


class FirewallRule(msgspec.Struct, frozen=True, kw_only=True):
    """What may pass. Replies always may."""

    direction: str = "in"
    """`in` or `out`."""
    protocol: str = ""
    """`tcp`, `udp`, `icmp`, or empty for all."""
    first: int = 0
    last: int = 0
    """First and last port of tcp and udp; 0 and 0 are all ports."""
    network: str = ""
    """Address of the other side as ADDRESS/PREFIX; empty is any."""
    group: str = ""
    """Guests that are members of this group (`Assembly.groups`) are the other side, whatever addresses they have."""
    icmp: int = -1
    """Type of an icmp message; -1 is any."""


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """This assembly's resources start when all resources of `assembly` run."""

    assembly: str
    restart: bool = True
    """Whether a restart of the first restarts the dependent too (Pacemaker's mandatory, symmetrical order)."""


class AttachedVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume and the device that it is in a guest, such as /dev/vdb."""

    volume: str
    device: str


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's part in a network that a stack made."""

    network: str
    address: str
    """ADDRESS/PREFIX."""
    gateway: str = ""
    """Where everything goes that is in none of the guest's networks; empty is nowhere."""


class Assembly(msgspec.Struct, frozen=True, kw_only=True):
    """A guest: an image, its customisation, an agent and resources."""

    name: str
    uuid: str = ""
    image: str = ""
    """Name of a JEOS, such as `bookworm`."""
    host: str = ""
    """Name of the host that the assembly is, where guests are hosts that are there already (infrastructure `hosts`)."""
    arch: str = "x86_64"
    packages: tuple[str, ...] = ()
    """Beyond those that the resources' templates bring."""
    files: tuple[tuple[str, str], ...] = ()
    """(absolute path, content) pairs."""
    file_attributes: tuple[FileAttributes, ...] = ()
    """Of those of the files that are not root's with mode 0644, in the order of the files."""
    commands: tuple[tuple[str, ...], ...] = ()
    """Argument vectors run in the image when it is built, in order."""
    resources: tuple[Resource, ...] = ()
    after: tuple[Dependency, ...] = ()
    escalation: Escalation = Escalation(failures=3, period=600.0)
    agent: str = "pcloud"
    """`pcloud` (ours) or `pacemaker` (Debian's pacemaker-remoted)."""
    transport: str = "remote"
    """`remote` (Pacemaker Remote), `ssh`, or `none`: the infrastructure's word on the guest is all there is."""
    memory: int = 0
    """MiB; 0 leaves it to the infrastructure."""
    cpus: float = 0.0
    """Cores; 0 leaves it to the infrastructure."""
    apart: str = ""
    """Guests of the deployable with the same word are not made at one place while there are enough; empty is none."""
    start_timeout: float = 120.0
    """Seconds until the guest's agent must answer."""
    stop_timeout: float = 30.0
    """Seconds an orderly shut-down may take before the guest is destroyed."""
    saved_state: bool = False
    """Whether its starts restore the state it had when it first booted, instead of booting; it then keeps nothing."""

    seed: tuple[SeedFile, ...] = ()
    """What is this guest's alone (user data, keys); a change makes the guest anew. Set by stacks, not by documents."""
    address: str = ""
    """The address that the guest shall have, of its infrastructure's network; empty leaves it to that. Set by stacks, not
    by documents."""
    addresses: tuple[str, ...] = ()
    """Further addresses, `ADDRESS/PREFIX`, that the guest has from its start on. Set by stacks, not by documents."""
    firewall: tuple[FirewallRule, ...] | None = None
    """What may reach the guest; None lets everything pass. Once there is a rule for `out`, nothing else goes out. Set by
    stacks, not by documents."""
    interfaces: tuple[Interface, ...] = ()
    """Networks of stacks that the guest is in; then its infrastructure's network serves this host alone. Set by stacks, not
    by documents."""
    groups: tuple[str, ...] = ()
    """Names by which rules of other guests mean this guest. Set by stacks, not by documents."""
    volumes: tuple[AttachedVolume, ...] = ()
    """Disks that outlive the guest and that it has from its start on. Set by stacks, not by documents."""

    def attributes_of(self, path: str) -> FileAttributes:
        """Return the permissions and owner of one of the files."""
        for attributes in self.file_attributes:
            if attributes.path == path:
                return attributes
        return FileAttributes(path=path)

    def resource(self, name: str) -> Resource:
        """Return the resource of that name; KeyError when there is none."""
        for resource in self.resources:
            if resource.name == name:
                return resource
        raise KeyError(name)


class ServiceDependency(msgspec.Struct, frozen=True, kw_only=True):
    """An order between two resources, each named `ASSEMBLY.RESOURCE`; from `service_dependency` or `constraints`."""

    id: str
    first: str
    then: str
    restart: bool = True


class Deployable(msgspec.Struct, frozen=True, kw_only=True):
    """An application made of guests."""

    name: str
    uuid: str = ""
    infrastructure: str = "lxc"
    username: str = ""
    """The user in whose name guests are made, where an infrastructure knows users (OpenStack)."""
    monitor: str = "am"
    """`am` (active: an agent in the guest), `pm` (passive: sshd) or `none` (by the infrastructure alone); the default of
    the assemblies' transport."""
    assemblies: tuple[Assembly, ...] = ()
    constraints: tuple[ServiceDependency, ...] = ()
    escalation: Escalation = Escalation(failures=3, period=3600.0)
    priority: int = 0
    """More important deployables (higher) start first when many start at once."""
    isolation: str = "shared"
    """`process` gives the deployable an engine process of its own."""

    def assembly(self, name: str) -> Assembly:
        """Return the assembly of that name; KeyError when there is none."""
        for assembly in self.assemblies:
            if assembly.name == name:
                return assembly
        raise KeyError(name)
