"""The manifest's resources, described once: every key, its kind, its default, an example and its meaning; and the kinds that
the whole description shares. Pure data; `pcloud.model.description` has the rest.
"""

from __future__ import annotations

from typing import Any, Final

from pcloud.model import names
from pcloud.model.kinds import Boolean, Choice, Duration, Integer, Kind, Literal, Number, Size, Text
from pcloud.model.shapes import Either, Key, ListOf, MapOf, Table, is_list, is_mapping, is_scalar

_DNS = "use lower-case letters, digits and inner dashes, at most 63 characters: it becomes a host name"
_WORD = "use letters, digits, dashes and underscores, at most 64 characters"
HOUR, DAY = 3600.0, 86400.0

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


def same(value: Any) -> Any:
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
        example="3",
    ),
    Key("period", Duration(1.0, 366 * DAY), "Failures that lie further back than this are forgotten.", example="60s"),
)
_reference = Text(
    rf"[^.]{{1,128}}\.({'|'.join(names.ATTRIBUTES)})",
    what="reference",
    code="INVALID_REFERENCE",
    hint=f"write ASSEMBLY.ATTRIBUTE, the attribute being one of {', '.join(names.ATTRIBUTES)}",
)
PARAMETER: Final = Table(
    "parameter",
    Key("value", Literal(), "The value, as text.", example="3306"),
    Key(
        "reference",
        _reference,
        "`ASSEMBLY.ipaddress` or `ASSEMBLY.hostname`: looked up when it is needed, and again when it changes.",
        example="db.ipaddress",
    ),
    Key("secret", Boolean(), "Never show it in events, logs, `explain` or `get`.", default="`false`", example="true"),
)
parameter: Kind = Either(
    "a value, or a mapping with 'value' or 'reference'",
    (is_mapping, PARAMETER, same),
    (lambda _: True, Literal(), lambda value: {"value": value}),
)
_interval = Duration(0.1, 7 * DAY)
_timeout = Duration(0.1, DAY)
MONITOR: Final = Table(
    "monitor",
    Key("interval", _interval, "Time between two checks.", default="the template's, else `10s`", example="10s"),
    Key(
        "timeout",
        _timeout,
        "A check that takes longer counts as a failure.",
        default="the template's, else `20s`",
        example="20s",
    ),
    Key(
        "start_delay",
        Duration(0.0, HOUR),
        "Time from the start to the first check, for a service that is not itself at once; until then its failure is not "
        "noticed. The time-out of that check begins with the check, and nothing else waits for it (above).",
        default="the template's, else `0`",
        example="30s",
    ),
)
RESOURCE_TIMEOUTS: Final = Table(
    "timeouts of a resource",
    Key("start", _timeout, "How long a start may take.", default="the template's, else `60s`", example="2m"),
    Key(
        "stop",
        _timeout,
        "How long a stop may take; then the guest is isolated.",
        default="the template's, else `60s`",
        example="90s",
    ),
    Key(
        "monitor", _timeout, "The same as `monitor: {timeout: …}`.", default="the template's, else `20s`", example="20s"
    ),
)
LIMITS: Final = Table(
    "limits of a resource",
    Key("memory", Size(1, 64 * 1024 * 1024), "Memory, page cache included.", default="none of ours", example="256M"),
    Key("cpus", Number(0.01, 4096.0), "Cores, such as `0.5`.", default="none of ours", example="0.5"),
    Key("tasks", Integer(1, 4_000_000), "Processes and threads.", default="none of ours", example="64"),
)
RESOURCE: Final = Table(
    "resource",
    Key(
        "template",
        template_name,
        "A resource template: it brings class, type, packages, time-outs and process names.",
        example="httpd",
    ),
    Key("class", Choice(names.RESOURCE_CLASSES), "Kind of resource agent, where no template says it.", example="ocf"),
    Key(
        "provider",
        Text(names.AGENT_PROVIDER, what="provider"),
        "Provider of the agent, for class `ocf`.",
        example="heartbeat",
    ),
    Key(
        "type",
        Text(rf"([a-z]+:({names.AGENT_PROVIDER}:)?)?{names.AGENT_TYPE}", what="type of resource agent"),
        "Name of the agent or unit; `CLASS:TYPE` and `CLASS:PROVIDER:TYPE`, such as `ocf:heartbeat:apache`, say all three.",
        example="apache",
    ),
    Key(
        "monitor",
        Either(
            "a duration, or a mapping with 'interval', 'timeout' and 'start_delay'",
            (is_mapping, MONITOR, same),
            (lambda _: True, _interval, lambda value: {"interval": value}),
        ),
        "How often the resource is checked: the interval, or a mapping (below).",
        default="the template's, else `10s`",
        example="{interval: 10s, timeout: 5s}",
    ),
    Key("timeouts", RESOURCE_TIMEOUTS, "How long operations may take (below).", example="{start: 2m}"),
    Key(
        "parameters",
        MapOf(parameter_name, parameter),
        "Given to the agent, and to `configure` in its environment (below).",
        example="{port: 8080, db_host: {reference: db.ipaddress}}",
    ),
    Key(
        "configure",
        configure,
        "An executable in the guest (path, or list of arguments) that runs before the service starts, with the parameters "
        "in its environment, and again when one of them changes.",
        default="the template's, else none",
        example="/usr/local/sbin/configure",
    ),
    Key(
        "escalation",
        ESCALATION,
        "When failures lead to a restart of the guest.",
        default="`{failures: 5, period: 1m}`",
        example="{failures: 3, period: 60s}",
    ),
    Key(
        "limits",
        LIMITS,
        "What the service may use of its guest (below); for class `systemd`. Changed while it runs.",
        example="{memory: 256M, cpus: 0.5, tasks: 64}",
    ),
    Key(
        "after",
        ListOf(resource_name, named=True),
        "Resources of the same assembly that start before this one.",
        example="[mysqld]",
    ),
    Key(
        "processes",
        ListOf(Text(names.PROCESS, what="process name")),
        "Names of the service's processes, whose exit is noticed at once.",
        default="the template's, else what systemd tells",
        example="[apache2]",
    ),
)
resource: Kind = Either(
    "a template's name or a mapping (resource)",
    (is_scalar, template_name, lambda name: {"template": name}),
    (is_mapping, RESOURCE, same),
)
