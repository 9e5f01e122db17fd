"""The manifest, described once: every key, its kind, its default, an example and its meaning; the keys of resources are in
`pcloud.model.resource_description`.

The reader, the JSON Schema and the tables of the reference page are made from this; defaults that are shown here stand in
the structs of `pcloud.model.deployable`, and a test compares the two. Pure data.
"""

from __future__ import annotations

from typing import Final

from pcloud.model import names
from pcloud.model.kinds import Boolean, Choice, Duration, Integer, Kind, Mode, Number, Size, Text
from pcloud.model.resource_description import (
    DAY,
    ESCALATION,
    LIMITS,
    MONITOR,
    PARAMETER,
    RESOURCE,
    RESOURCE_TIMEOUTS,
    command,
    guest_name,
    path,
    resource,
    resource_name,
    same,
    uuid,
    word,
)
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
)

DEPENDENCY: Final = Table(
    "dependency",
    Key(
        "restart", Boolean(), "Whether a restart of the first restarts this one too.", default="`true`", example="false"
    ),
)
after: Kind = Either(
    "a list of assemblies, or a mapping with options",
    (is_list, ListOf(guest_name, named=True), lambda given: {name: {} for name in given}),
    (
        is_mapping,
        MapOf(guest_name, Either("a mapping", (is_null, Nothing(), same), (is_mapping, DEPENDENCY, same))),
        same,
    ),
)
FILE: Final = Table(
    "file",
    Key("content", Text(), "What is in the file.", default="empty", example='"shop\\n"'),
    Key("mode", Mode(), "Permissions.", default='`"0644"`', example='"0640"'),
    Key(
        "owner",
        Text(names.OWNER, what="owner"),
        "`USER` or `USER:GROUP`.",
        default="`root:root`",
        example="www-data:www-data",
    ),
)
file: Kind = Either(
    "a text or a mapping (file)",
    (is_mapping, FILE, same),
    (lambda _: True, Text(), lambda content: {"content": content}),
)
ASSEMBLY_TIMEOUTS: Final = Table(
    "timeouts of an assembly",
    Key("start", Duration(1.0, DAY), "How long until the guest's agent must answer.", default="`2m`", example="5m"),
    Key(
        "stop",
        Duration(0.1, DAY),
        "How long an orderly shut-down may take before the guest is destroyed.",
        default="`30s`",
        example="1m",
    ),
)
ASSEMBLY: Final = Table(
    "assembly",
    Key(
        "image",
        Text(names.IMAGE_NAME, what="image's name"),
        "The JEOS the guest is made from, such as `bookworm`; needed where images are made here (`lxc`, `libvirt`). With "
        "`hosts` it names the distribution that the host runs, for templates.",
        example="bookworm",
    ),
    Key(
        "host",
        Text(names.HOST_NAME, what="host's name"),
        "The host that it is, by its name in the configuration: with `infrastructure: hosts`, and needed there.",
        example="db1",
    ),
    Key(
        "arch",
        Text(names.ARCHITECTURE, what="architecture"),
        "Architecture of the image.",
        default="`x86_64`",
        example="x86_64",
    ),
    Key(
        "packages",
        ListOf(Text(names.PACKAGE, what="package's name")),
        "Packages in the image, beyond those of the templates.",
        example="[apache2, php]",
    ),
    Key(
        "files",
        MapOf(path, file),
        "Files in the image: absolute path to content, or to a mapping (below).",
        example='{/etc/motd: "shop\\n"}',
    ),
    Key(
        "commands",
        ListOf(command),
        "Run in the image when it is built, in order: lists of arguments; a text is run by `sh -c`.",
        example="[[a2enmod, rewrite]]",
    ),
    Key(
        "resources",
        MapOf(resource_name, resource),
        "The services: name to template or mapping (below).",
        example="{httpd: {template: httpd}}",
    ),
    Key(
        "after",
        after,
        "Assemblies whose resources must run first: a list, or a mapping with options (below).",
        example="[db]",
    ),
    Key(
        "escalation",
        ESCALATION,
        "When failures of the guest lead to a restart of the deployable.",
        default="`{failures: 3, period: 10m}`",
        example="{failures: 3, period: 10m}",
    ),
    Key(
        "agent",
        Choice(("pcloud", "pacemaker")),
        "The agent in the guest: ours, or Pacemaker's own.",
        default="`pcloud`",
        example="pacemaker",
    ),
    Key(
        "transport",
        Choice(("remote", "ssh", "none")),
        "How the guest is monitored: the agent's protocol, sshd, or by its infrastructure alone (no resources then).",
        default="`remote`; `ssh` where the deployable says `monitor: pm`, `none` where it says `none`",
        example="ssh",
    ),
    Key("memory", Size(16, 64 * 1024 * 1024), "Memory limit.", default="the infrastructure's", example="512M"),
    Key("cpus", Number(0.01, 4096.0), "Cores, such as `0.5`.", default="the infrastructure's", example="0.5"),
    Key(
        "apart",
        word,
        "A word of your own: guests of the deployable that have the same one are made at different places (availability "
        "zones) where there are enough. Without it guests are spread by their number alone.",
        example="replicas",
    ),
    Key(
        "saved_state",
        Boolean(),
        "Starts restore the state that the guest had when it first booted, instead of booting it (`libvirt`): quicker, and "
        "it keeps nothing.",
        default="`false`",
        example="true",
    ),
    Key("timeouts", ASSEMBLY_TIMEOUTS, "How long the guest's start and stop may take (below).", example="{start: 5m}"),
    Key("uuid", uuid, "An identifier that other software gave it.", example="2f1c7a90-6d0b-4c59-8f0e-0d1f6a3b7c11"),
)
_member = Text(
    rf"{names.GUEST_NAME}\.{names.RESOURCE_NAME}",
    what="resource",
    code="INVALID_REFERENCE",
    hint="write ASSEMBLY.RESOURCE",
)
CONSTRAINT: Final = Table(
    "constraint",
    Key("first", _member, "`ASSEMBLY.RESOURCE` that starts first.", required=True, example="db.mysqld"),
    Key(
        "then", _member, "`ASSEMBLY.RESOURCE` that starts when the first one runs.", required=True, example="web.httpd"
    ),
    Key(
        "restart",
        Boolean(),
        "Whether a restart of the first restarts the second too.",
        default="`true`",
        example="false",
    ),
    Key(
        "id",
        Text(names.IDENTIFIER, what="identifier"),
        "A name of its own.",
        default="`FIRST-then-THEN`, dots as dashes",
        example="db-before-web",
    ),
)
DEPLOYABLE: Final = Table(
    "deployable",
    Key("deployable", guest_name, "Its name.", required=True, example="shop"),
    Key("infrastructure", word, "Where the guests are made.", default="`lxc`", example="libvirt"),
    Key(
        "assemblies",
        MapOf(guest_name, ASSEMBLY),
        "The guests: name to mapping (below).",
        example="{web: {image: bookworm}}",
    ),
    Key(
        "constraints",
        ListOf(CONSTRAINT),
        "Order between single resources (below).",
        example="[{first: db.mysqld, then: web.httpd}]",
    ),
    Key(
        "monitor",
        Choice(("am", "pm", "none")),
        "`am`: active, an agent in each guest; `pm`: passive, sshd; `none`: by the infrastructure alone.",
        default="`am`",
        example="pm",
    ),
    Key(
        "escalation",
        ESCALATION,
        "When restarts of the whole deployable end, and it is declared failed.",
        default="`{failures: 3, period: 1h}`",
        example="{failures: 3, period: 1h}",
    ),
    Key(
        "priority",
        Integer(-1000, 1000),
        "Higher ones start first when many start at once.",
        default="`0`",
        example="10",
    ),
    Key(
        "isolation",
        Choice(("shared", "process")),
        "`process` gives the deployable an engine process of its own.",
        default="`shared`",
        example="process",
    ),
    Key(
        "username",
        Text(names.USER_NAME, what="user name"),
        "In whose name guests are made, where the infrastructure knows users.",
        example="operator",
    ),
    Key("uuid", uuid, "An identifier that other software gave it.", example="2f1c7a90-6d0b-4c59-8f0e-0d1f6a3b7c11"),
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
    LIMITS,
    PARAMETER,
    ESCALATION,
    CONSTRAINT,
)
"""In the order of the reference page."""
