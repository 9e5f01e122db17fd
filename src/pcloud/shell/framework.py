"""How commands of `pcloud` are declared: click with examples, sections, names that complete, and one session object.

A command's text (help, arguments, examples) is written once, at its declaration; `--help`, the man pages and the
documentation are made from it (`pcloud.shell.manual`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from pcloud.shell.output import FORMATS

if TYPE_CHECKING:
    from pcloud.client.api import Client

F = TypeVar("F", bound=Callable[..., Any])
TIME_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
COMPLETION_TIMEOUT = 1.0
"""Seconds that one question to the daemon may take when the Tab key was pressed."""
MOST_COMPLETED = 20


class Session:
    """What the global options say; makes the client when a command first needs it."""

    def __init__(self, *, url: str | None = None, token_file: str | None = None) -> None:
        self.url = url
        self.token_file = token_file
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client of the chosen daemon."""
        if self._client is None:
            from pcloud.client.api import Client
            from pcloud.client.settings import load

            self._client = Client(load(url=self.url, token_file=self.token_file))
        return self._client

    def quick_client(self) -> Client:
        """A client for completion, which gives up soon."""
        from pcloud.client.api import Client
        from pcloud.client.settings import load

        return Client(load(url=self.url, token_file=self.token_file), timeout=COMPLETION_TIMEOUT)

    def close(self) -> None:
        """Close the client, if one was made."""
        if self._client is not None:
            self._client.close()


pass_session = click.make_pass_decorator(Session, ensure=True)


class Command(click.Command):
    """A command with examples: pairs of a command line and what it does."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples under the options."""
        if self.examples:
            with formatter.section("Examples"):
                for line, meaning in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
                    if meaning:
                        formatter.write(f"{'':{formatter.current_indent + 4}}{meaning}\n")
        super().format_epilog(ctx, formatter)


class Group(click.Group):
    """A group of commands, shown in sections in the order of their declaration."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections: dict[str, list[str]] = {}

    def add(self, section: str, *commands: click.Command) -> None:
        """Add commands under a heading."""
        for command in commands:
            self.add_command(command)
            self.sections.setdefault(section, []).append(command.name or "")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are shown."""
        placed = [name for names in self.sections.values() for name in names]
        return placed + [name for name in super().list_commands(ctx) if name not in placed]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section."""
        if not self.sections:
            super().format_commands(ctx, formatter)
            return
        for section, names in self.sections.items():
            rows = [(name, self.commands[name].get_short_help_str(limit=70)) for name in names]
            with formatter.section(section):
                formatter.write_dl(rows, col_max=14)


def output_option(function: F) -> F:
    """Give a command `-o table|json|yaml` (parameter `output`)."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to print the result.",
    )(function)


def wait_options(default: float, *, waits: bool = False) -> Callable[[F], F]:
    """Give a command `--wait/--no-wait` and `--timeout`; `waits` says whether it waits unless told otherwise."""

    def decorate(function: F) -> F:
        function = click.option(
            "--timeout",
            type=Seconds(),
            default=f"{default:g}s",
            show_default=True,
            metavar="TIME",
            help="How long to wait at most, such as 90s, 10m or 1h.",
        )(function)
        return click.option(
            "--wait/--no-wait", default=waits, show_default=True, help="Return only when it has happened, or can not."
        )(function)

    return decorate


class Seconds(click.ParamType[float]):
    """A span of time: a number of seconds, or with a unit (ms, s, m, min, h)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds, above 0 and below a year."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
        try:
            seconds = float(digits) * TIME_UNITS[text[len(digits) :]]
        except (ValueError, KeyError):
            self.fail(f"{value!r} is no span of time; write 90s, 10m or 1h", param, ctx)
        if not 0 < seconds < 366 * 86400:
            self.fail(f"{value!r} is not a useful span of time", param, ctx)
        return seconds


class Name(click.ParamType[str]):
    """A name of something the daemon knows; completes by asking it."""

    def __init__(self, kind: str, names: Callable[[Client, str], Sequence[str]]) -> None:
        self.name = kind
        self._names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what could be no name at all; the daemon judges the rest."""
        text = str(value)
        if not text or not text.isprintable():
            self.fail(f"{text!r} is no name", param, ctx)
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Ask the daemon; nothing when it does not answer soon."""
        from pcloud.model.errors import PcloudError

        session = ctx.find_object(Session) or _session_of(ctx)
        try:
            with session.quick_client() as client:
                return [CompletionItem(name) for name in self._names(client, incomplete) if name.startswith(incomplete)]
        except PcloudError:
            return []


def _session_of(ctx: click.Context) -> Session:
    """The session that the global options on the line being completed stand for: click does not run the group then."""
    options = ctx.find_root().params
    return Session(url=options.get("url"), token_file=options.get("token_file"))


def _parts(client: Client, incomplete: str) -> list[str]:
    """DEPLOYABLE, DEPLOYABLE/ASSEMBLY and DEPLOYABLE/ASSEMBLY/RESOURCE where they fit what was typed."""
    names = []
    typed = incomplete.partition("/")[0]
    fitting = [found.name for found in client.deployables() if found.name.startswith(typed)]
    for deployable in fitting[:MOST_COMPLETED]:
        names.append(deployable)
        for assembly in client.status(deployable).assemblies:
            names.append(f"{deployable}/{assembly.name}")
            names.extend(f"{deployable}/{assembly.name}/{resource.name}" for resource in assembly.resources)
    return names


DEPLOYABLE = Name("deployable", lambda client, _: [found.name for found in client.deployables()])
GUEST = Name("guest", lambda client, typed: [name for name in _parts(client, typed) if name.count("/") == 1])
PART = Name("part", _parts)
JEOS = Name("image", lambda client, _: sorted({found.name for found in client.jeos()}))
ARCH = Name("arch", lambda client, _: sorted({found.arch for found in client.jeos()}))
ASSEMBLY = Name("assembly", lambda client, _: [found.name for found in client.assemblies()])
STACK = Name("stack", lambda client, _: [found["StackName"] for found in client.stacks.all()])
TOKEN = Name("token", lambda client, _: [found.name for found in client.tokens()])


def split_part(part: str, *, parts: tuple[int, int]) -> tuple[str, str, str]:
    """Split NAME[/ASSEMBLY[/RESOURCE]]; a usage error when it has fewer or more than `parts` (least, most)."""
    pieces = part.split("/")
    if not parts[0] <= len(pieces) <= parts[1] or not all(pieces):
        wanted = "/".join(("DEPLOYABLE", "ASSEMBLY", "RESOURCE")[: parts[1]])
        raise click.UsageError(f"{part!r} is not of the form {wanted}")
    pieces += [""] * (3 - len(pieces))
    return pieces[0], pieces[1], pieces[2]
