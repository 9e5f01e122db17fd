"""Settings of the daemon: its file (see `home`), then the environment, then the command line.

Owns names, units and defaults of every setting; `docs/configuration.md` is written from here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from pcloud.events.event import Severity
from pcloud.events.filters import EventFilter
from pcloud.model.errors import InvalidDocument, Problem
from pcloud.objects.settings import ObjectStoreSettings
from pcloud.objects.settings import problems as object_store_problems
from pcloud.transport.settings import TransportSettings
from pcloud.transport.settings import problems as transport_problems

_PREFIX = "PCLOUD__"
OUTCOME = "incident"
"""The type of the event that tells how an incident ended."""


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[api]`: the HTTP interface."""

    listen: str = "127.0.0.1:8780"
    """ADDRESS:PORT, `[::1]:8780` for IPv6; port 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names, beyond IP addresses, localhost and this machine's name, under which browsers may reach the API."""
    tls: bool = False
    """Make a self-signed certificate in $PCLOUD_HOME/tls and use it."""
    tls_certificate: str = ""
    """PEM file with the certificate chain; turns TLS on."""
    tls_key: str = ""
    body_limit: int = 8 * 1024 * 1024
    """Bytes that one request may send."""
    streams: int = 200
    """Event streams open at once."""


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[engine]`: the engine processes."""

    slots: int = 0
    """Engine processes; 0 is one per core."""
    starts_in_flight: int = 8
    """The storm brake: guests started at once on one infrastructure, by all engine processes together (each may one)."""
    hello_timeout: float = 60.0
    """Seconds after which an engine process that lives but does not connect is killed and started again."""
    silence_timeout: float = 30.0
    """Seconds after which a connected engine process that answers nothing is killed and started again: it was stopped, or
    its loop hangs."""


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[store]`: what is kept, where and for how long."""

    url: str = ""
    """SQLAlchemy URL; empty is SQLite in $PCLOUD_HOME/pcloud.db."""
    lease: float = 30.0
    """Seconds after which another daemon on the same PostgreSQL store takes over from one that is silent; 0 is never."""
    keep_events: int = 1_000_000
    """Events kept; 0 keeps all."""
    keep_events_days: float = 90.0
    """Days that events are kept; 0 keeps all."""
    keep_decisions: int = 500
    """Decisions kept of each deployable."""
    keep_jobs_days: float = 7.0
    """Days that ended jobs are kept."""


class ImageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[images]`: the image store."""

    folder: str = ""
    """Where images are kept; empty is /var/cache/pcloud/images."""


class StackSize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[stacks.sizes.NAME]`: what an instance type or flavor of templates gives a guest."""

    memory: int = 0
    """MiB; 0 sets no limit."""
    cpus: float = 0.0
    """Cores; 0 sets no limit."""


class StackSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[stacks]`: the CloudFormation and Heat interfaces, and the guests of stacks."""

    cloudformation: str = "127.0.0.1:8000"
    """ADDRESS:PORT of the CloudFormation endpoint; the same port is used on the guests' bridge."""
    cloudwatch: str = "127.0.0.1:8003"
    """ADDRESS:PORT of the CloudWatch endpoint."""
    heat: str = "127.0.0.1:8004"
    """ADDRESS:PORT of the Heat endpoint."""
    heat_without_token: bool = False
    """Whoever reaches the Heat endpoint from this host itself may do everything without a token, as clients with
    `OS_AUTH_TYPE=none` expect. Every user of this host may then."""
    keep_deleted_days: float = 90.0
    """Days that deleted stacks are kept, with their events; 0 keeps all."""
    infrastructure: str = "lxc"
    """Where servers of stacks are made: `lxc`, `libvirt` or `openstack`. A stack that has guests stays where they are."""
    guest_url: str = ""
    """Where guests reach the CloudFormation endpoint, such as http://192.0.2.7:8000, on an infrastructure in whose network
    this host has no address of its own (OpenStack): `cloudformation` must listen there."""
    transport: Literal["remote", "none"] = "remote"
    """`none`: servers of stacks hold no agent that is asked; one is complete, and runs, when its infrastructure says so."""
    images: dict[str, str] = {}
    """Image name of templates, or a pattern such as `F17-*` → JEOS; added to the table in docs/stacks-guests.md."""
    sizes: dict[str, StackSize] = {}
    """Instance type or flavor of templates → size; added to the table in docs/stacks-guests.md."""


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[sinks]]`: one receiver of events."""

    name: str
    kind: str
    """`webhook`, `command` or `syslog`."""
    url: str = ""
    """webhook: where to post to."""
    secret: str = ""
    """webhook: signs each body, see docs/operations.md."""
    command: tuple[str, ...] = ()
    """command: the argument vector."""
    address: str = "/dev/log"
    """syslog: a socket's path, or IP:PORT."""
    timeout: float = 10.0
    """Seconds one delivery may take."""
    give_up: float = 3600.0
    """Seconds after which one event that can not be delivered is left out."""
    deployable: str = ""
    assembly: str = ""
    resource: str = ""
    type: str = ""
    severity: Severity | None = None
    outcomes: bool = False
    """One notification for each incident, when it is over, instead of one for each failure and each try."""

    def filter(self) -> EventFilter:
        """Return the filter part."""
        return EventFilter(
            deployable=self.deployable,
            assembly=self.assembly,
            resource=self.resource,
            type=OUTCOME if self.outcomes else self.type,
            severity=self.severity,
        )


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    api: ApiSettings = ApiSettings()
    engine: EngineSettings = EngineSettings()
    store: StoreSettings = StoreSettings()
    images: ImageSettings = ImageSettings()
    stacks: StackSettings = StackSettings()
    object_store: ObjectStoreSettings = ObjectStoreSettings()
    sinks: tuple[SinkSettings, ...] = ()
    infrastructures: dict[str, dict[str, Any]] = {}
    """By name; given to the drivers as it stands."""
    transports: TransportSettings = TransportSettings()


def load(path: Path, environment: Mapping[str, str] = os.environ) -> DaemonSettings:
    """Read the file (which may be absent) and `PCLOUD__SECTION__KEY=value` variables.

    InvalidDocument names file, line and key.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except FileNotFoundError:
        table = {}
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+), column (\d+)", str(error))
        raise InvalidDocument(
            Problem(
                code="SETTINGS_SYNTAX",
                message=str(error).split(" (at")[0],
                file=str(path),
                line=int(line[1]) if line else 0,
                column=int(line[2]) if line else 0,
            )
        ) from error
    except (UnicodeDecodeError, OSError) as error:
        raise InvalidDocument(
            Problem(code="SETTINGS_UNREADABLE", message=f"it can not be read: {error}", file=str(path))
        ) from error
    overlay(table, environment)
    try:
        settings = msgspec.convert(table, DaemonSettings)
    except msgspec.ValidationError as error:
        raise InvalidDocument(_problem(error, text, path)) from error
    check(settings, path)
    return settings


def overlay(table: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put `PCLOUD__SECTION__KEY` variables into the table; values are TOML, anything else is taken as a string."""
    for name, value in sorted(environment.items()):
        if not name.startswith(_PREFIX):
            continue
        keys = [part.lower() for part in name[len(_PREFIX) :].split("__")]
        place = table
        for key in keys[:-1]:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise InvalidDocument(Problem(code="SETTINGS_INVALID", message=f"{name} does not name a setting"))
            place = inner
        try:
            place[keys[-1]] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            place[keys[-1]] = value


def check(settings: DaemonSettings, path: Path) -> None:
    """Raise InvalidDocument with everything that types can not express."""
    problems = []

    def add(key: str, message: str) -> None:
        problems.append(Problem(code="SETTINGS_INVALID", message=message, path=key, file=str(path)))

    try:
        split_address(settings.api.listen)
    except ValueError as error:
        add("api.listen", str(error))
    if bool(settings.api.tls_certificate) != bool(settings.api.tls_key):
        missing = "tls_key" if settings.api.tls_certificate else "tls_certificate"
        add(f"api.{missing}", "tls_certificate and tls_key must be set together")
    if not 0 <= settings.engine.slots <= 256:
        add("engine.slots", "must be between 0 and 256")
    if settings.engine.starts_in_flight < 1:
        add("engine.starts_in_flight", "must be at least 1")
    for key in ("hello_timeout", "silence_timeout"):
        if getattr(settings.engine, key) < 1:
            add(f"engine.{key}", "must be at least 1 second")
    if settings.api.body_limit < 1024:
        add("api.body_limit", "must be at least 1024 bytes")
    if settings.store.lease and not 5 <= settings.store.lease <= 3600:
        add("store.lease", "must be between 5 and 3600 seconds, or 0")
    for key in ("keep_events", "keep_events_days", "keep_decisions", "keep_jobs_days"):
        if getattr(settings.store, key) < 0:
            add(f"store.{key}", "must not be negative")
    for key, sentence in object_store_problems(settings.object_store):
        add(f"object_store.{key}", sentence)
    for key, sentence in transport_problems(settings.transports):
        add(f"transports.{key}", sentence)
    names: set[str] = set()
    for sink in settings.sinks:
        where = f"sinks.{sink.name}"
        if sink.name in names:
            add(where, "two sinks have this name")
        names.add(sink.name)
        if sink.kind not in ("webhook", "command", "syslog"):
            add(f"{where}.kind", "must be webhook, command or syslog")
        if sink.kind == "webhook" and not sink.url.startswith(("http://", "https://")):
            add(f"{where}.url", "a webhook needs an http or https URL")
        if sink.outcomes and sink.type:
            add(f"{where}.type", "outcomes are events of one type; leave `type` out")
        if sink.kind == "command" and not sink.command:
            add(f"{where}.command", "a command sink needs an argument vector")
    if problems:
        raise InvalidDocument.from_problems(problems)


def split_address(text: str) -> tuple[str, int]:
    """Return (host, port) of ADDRESS:PORT; ValueError says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535 or not host:
        raise ValueError(f"`{text}` is not ADDRESS:PORT")
    return host.strip("[]"), int(port)


def _problem(error: msgspec.ValidationError, text: str, path: Path) -> Problem:
    message, _, where = str(error).partition(" - at `$")
    key = where.rstrip("`").lstrip(".")
    unknown = re.search(r"unknown field `([^`]+)`", message)
    if unknown:
        key = f"{key}.{unknown[1]}".lstrip(".")
        message = f"there is no setting `{unknown[1]}`"
    return Problem(
        code="SETTINGS_INVALID",
        message=message,
        path=key,
        file=str(path),
        line=_line(text, key),
        hint="see docs/configuration.md",
    )


def _line(text: str, key: str) -> int:
    """Return the line on which a key is set; 0 when it is not found (it came from the environment, say)."""
    parts = [part for part in re.sub(r"\[[^]]*\]", "", key).split(".") if part]
    if not parts:
        return 0
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^]]+?)\s*\]+", line)
        if header:
            section = [part.strip().strip('"') for part in header[1].split(".")]
            if section == parts:
                return number
        assignment = re.match(r"\s*([A-Za-z0-9_.\"-]+)\s*=", line)
        if assignment and [*section, *assignment[1].replace('"', "").split(".")] == parts:
            return number
    return 0
