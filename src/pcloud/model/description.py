"""The manifest, described once: every key, its kind, its default and its meaning.

The reader, the JSON Schema and the tables of the reference page are made from this; defaults that are shown here stand in
the structs of `pcloud.model.deployable`, and a test compares the two. Pure data.
"""

from __future__ import annotations

from typing import Any, Final

from pcloud.model import names
from pcloud.model.kinds import Boolean, Choice, Duration, Integer, Kind, Literal, Mode, Number, Size, Text
from pcloud.model.shapes import (
    Either,
    Key,
    ListOf,
    MapOf,
    Nothing,
    Table,
    is_list,
    is_mapping,
    is_null,
    is_scalar,
)

_DNS = "use lower-case letters, digits and inner dashes, at most 63 characters: it becomes a host name"
_WORD = "use letters, digits, dashes and underscores, at most 64 characters"
DAY = 86400.0

guest_name = Text(names.GUEST_NAME, what="name", code="INVALID_NAME", hint=_DNS)
resource_name = Text(names.RESOURCE_NAME, what="resource's name", code="INVALID_NAME", hint=_WORD)
parameter_name = Text(
    names.PARAMETER_NAME,
    what="parameter's name",
    code="INVALID_NAME",
    hint="use letters, digits and underscores, no digit first: it becomes an environment variable",
)
template_name = Text(names.TEMPLATE_NAME, what="template's name", code="INVALID_NAME")
word = Text(names.WORD, what="word", code="INVALID_NAME")
argument = Text(what="argument")
path = Text(
    names.ABSOLUTE_PATH, what="absolute path", code="INVALID_PATH", hint="begin with '/', without '..', '.' or '//'"
)
uuid = Text(names.UUID, what="identifier")


def _same(value: Any) -> Any:
    return value


arguments = ListOf(Text(what="argument"), least=1, most=256)
configure: Kind = Either(
    "a path or a list of arguments",
    (is_scalar, Text(empty=False, what="path of an executable"), lambda text: (text,)),
    (is_list, arguments, tuple),
)
command: Kind = Either(
    "a list of arguments, or a line for the shell",
    (is_scalar, Text(empty=False, what="command line"), lambda line: ("sh", "-c", line)),
    (is_list, arguments, tuple),
)

ESCALATION: Final = Table(
    "escalation",
    Key(
        "failures",
        Integer(1, 10_000),
        "This many failures within the period escalate one level up; the ones before only restart.",
    ),
    Key("period", Duration(1.0, 366 * DAY), "Failures that lie further back than this are forgotten."),
)
_reference = Text(
    rf"[^.]{{1,128}}\.({'|'.join(names.ATTRIBUTES)})",
    what="reference",
    code="INVALID_REFERENCE",
    hint=f"write ASSEMBLY.ATTRIBUTE, the attribute being one of {', '.join(names.ATTRIBUTES)}",
)
PARAMETER: Final = Table(
    "parameter",
    Key("value", Literal(), "The value, as text."),
    Key(
        "reference",
        _reference,
        "`ASSEMBLY.ipaddress` or `ASSEMBLY.hostname`: looked up when it is needed, and again when it changes.",
    ),
    Key("secret", Boolean(), "Never show it in events, logs, `explain` or `get`.", default="`false`"),
)
parameter: Kind = Either(
    "a value, or a mapping with 'value' or 'reference'",
    (is_mapping, PARAMETER, _same),
    (lambda _: True, Literal(), lambda value: {"value": value}),
)
_interval = Duration(0.1, 7 * DAY)
_timeout = Duration(0.1, DAY)
MONITOR: Final = Table(
    "monitor",
    Key("interval", _interval, "Time between two checks.", default="the template's, else `10s`"),
    Key("timeout", _timeout, "A check that takes longer counts as a failure.", default="the template's, else `20s`"),
)
RESOURCE_TIMEOUTS: Final = Table(
    "timeouts of a resource",
    Key("start", _timeout, "How long a start may take.", default="the template's, else `60s`"),
    Key(
        "stop", _timeout, "How long a stop may take; then the guest is isolated.", default="the template's, else `60s`"
    ),
    Key("monitor", _timeout, "The same as `monitor: {timeout: …}`.", default="the template's, else `20s`"),
)
RESOURCE: Final = Table(
    "resource",
    Key(
        "template", template_name, "A resource template: it brings class, type, packages, time-outs and process names."
    ),
    Key("class", Choice(names.RESOURCE_CLASSES), "Kind of resource agent, where no template says it."),
    Key("provider", Text(names.AGENT_PROVIDER, what="provider"), "Provider of the agent, for class `ocf`."),
    Key(
        "type",
        Text(rf"([a-z]+:({names.AGENT_PROVIDER}:)?)?{names.AGENT_TYPE}", what="type of resource agent"),
        "Name of the agent or unit; `CLASS:TYPE` and `CLASS:PROVIDER:TYPE`, such as `ocf:heartbeat:apache`, say all three.",
    ),
    Key(
        "monitor",
        Either(
            "a duration, or a mapping with 'interval' and 'timeout'",
            (is_mapping, MONITOR, _same),
            (lambda _: True, _interval, lambda value: {"interval": value}),
        ),
        "How often the resource is checked: the interval, or a mapping (below).",
        default="the template's, else `10s`",
    ),
    Key("timeouts", RESOURCE_TIMEOUTS, "How long operations may take (below)."),
    Key(
        "parameters",
        MapOf(parameter_name, parameter),
        "Given to the agent, and to `configure` in its environment (below).",
    ),
    Key(
        "configure",
        configure,
        "An executable in the guest (path, or list of arguments) that runs before the service starts, with the parameters "
        "in its environment, and again when one of them changes.",
        default="the template's, else none",
    ),
    Key(
        "escalation", ESCALATION, "When failures lead to a restart of the guest.", default="`{failures: 5, period: 1m}`"
    ),
    Key("after", ListOf(resource_name, named=True), "Resources of the same assembly that start before this one."),
    Key(
        "processes",
        ListOf(Text(names.PROCESS, what="process name")),
        "Names of the service's processes, whose exit is noticed at once.",
        default="the template's, else what systemd tells",
    ),
)
resource: Kind = Either(
    "a template's name or a mapping (resource)",
    (is_scalar, template_name, lambda name: {"template": name}),
    (is_mapping, RESOURCE, _same),
)
DEPENDENCY: Final = Table(
    "dependency",
    Key("restart", Boolean(), "Whether a restart of the first restarts this one too.", default="`true`"),
)
after: Kind = Either(
    "a list of assemblies, or a mapping with options",
    (is_list, ListOf(guest_name, named=True), lambda given: {name: {} for name in given}),
    (
        is_mapping,
        MapOf(guest_name, Either("a mapping", (is_null, Nothing(), _same), (is_mapping, DEPENDENCY, _same))),
        _same,
    ),
)
FILE: Final = Table(
    "file",
    Key("content", Text(), "What is in the file.", default="empty"),
    Key("mode", Mode(), "Permissions.", default='`"0644"`'),
    Key("owner", Text(names.OWNER, what="owner"), "`USER` or `USER:GROUP`.", default="`root:root`"),
)
file: Kind = Either(
    "a text or a mapping (file)",
    (is_mapping, FILE, _same),
    (lambda _: True, Text(), lambda content: {"content": content}),
)
ASSEMBLY_TIMEOUTS: Final = Table(
    "timeouts of an assembly",
    Key("start", Duration(1.0, DAY), "How long until the guest's agent must answer.", default="`2m`"),
    Key(
        "stop",
        Duration(0.1, DAY),
        "How long an orderly shut-down may take before the guest is destroyed.",
        default="`30s`",
    ),
)
ASSEMBLY: Final = Table(
    "assembly",
    Key("image", Text(names.IMAGE_NAME, what="image's name"), "The JEOS the guest is made from, such as `bookworm`."),
    Key("arch", Text(names.ARCHITECTURE, what="architecture"), "Architecture of the image.", default="`x86_64`"),
    Key(
        "packages",
        ListOf(Text(names.PACKAGE, what="package's name")),
        "Packages in the image, beyond those of the templates.",
    ),
    Key("files", MapOf(path, file), "Files in the image: absolute path to content, or to a mapping (below)."),
    Key(
        "commands",
        ListOf(command),
        "Run in the image when it is built, in order: lists of arguments; a text is run by `sh -c`.",
    ),
    Key("resources", MapOf(resource_name, resource), "The services: name to template or mapping (below)."),
    Key("after", after, "Assemblies whose resources must run first: a list, or a mapping with options (below)."),
    Key(
        "escalation",
        ESCALATION,
        "When failures of the guest lead to a restart of the deployable.",
        default="`{failures: 3, period: 10m}`",
    ),
    Key(
        "agent",
        Choice(("pcloud", "pacemaker")),
        "The agent in the guest: ours, or Pacemaker's own.",
        default="`pcloud`",
    ),
    Key(
        "transport",
        Choice(("remote", "ssh")),
        "How the guest is monitored: the agent's protocol, or sshd.",
        default="`remote`, or `ssh` where the deployable says `monitor: pm`",
    ),
    Key("memory", Size(16, 64 * 1024 * 1024), "Memory limit.", default="the infrastructure's"),
    Key("cpus", Number(0.01, 4096.0), "Cores, such as `0.5`.", default="the infrastructure's"),
    Key("timeouts", ASSEMBLY_TIMEOUTS, "How long the guest's start and stop may take (below)."),
    Key("uuid", uuid, "An identifier that other software gave it."),
)
_member = Text(
    rf"{names.GUEST_NAME}\.{names.RESOURCE_NAME}",
    what="resource",
    code="INVALID_REFERENCE",
    hint="write ASSEMBLY.RESOURCE",
)
CONSTRAINT: Final = Table(
    "constraint",
    Key("first", _member, "`ASSEMBLY.RESOURCE` that starts first.", required=True),
    Key("then", _member, "`ASSEMBLY.RESOURCE` that starts when the first one runs.", required=True),
    Key("restart", Boolean(), "Whether a restart of the first restarts the second too.", default="`true`"),
    Key(
        "id",
        Text(names.IDENTIFIER, what="identifier"),
        "A name of its own.",
        default="`FIRST-then-THEN`, dots as dashes",
    ),
)
DEPLOYABLE: Final = Table(
    "deployable",
    Key("deployable", guest_name, "Its name.", required=True),
    Key("infrastructure", word, "Where the guests are made.", default="`lxc`"),
    Key("assemblies", MapOf(guest_name, ASSEMBLY), "The guests: name to mapping (below)."),
    Key("constraints", ListOf(CONSTRAINT), "Order between single resources (below)."),
    Key("monitor", Choice(("am", "pm")), "`am`: active, an agent in each guest; `pm`: passive, sshd.", default="`am`"),
    Key(
        "escalation",
        ESCALATION,
        "When restarts of the whole deployable end, and it is declared failed.",
        default="`{failures: 3, period: 1h}`",
    ),
    Key("priority", Integer(-1000, 1000), "Higher ones start first when many start at once.", default="`0`"),
    Key(
        "isolation",
        Choice(("shared", "process")),
        "`process` gives the deployable an engine process of its own.",
        default="`shared`",
    ),
    Key(
        "username",
        Text(names.USER_NAME, what="user name"),
        "In whose name guests are made, where the infrastructure knows users.",
    ),
    Key("uuid", uuid, "An identifier that other software gave it."),
    extensions=True,
)
TABLES: Final = (
    DEPLOYABLE,
    ASSEMBLY,
    ASSEMBLY_TIMEOUTS,
    DEPENDENCY,
    FILE,
    RESOURCE,
    MONITOR,
    RESOURCE_TIMEOUTS,
    PARAMETER,
    ESCALATION,
    CONSTRAINT,
)
"""In the order of the reference page."""
