"""`pcloudsh`: one command, a script from standard input, or an interactive shell (`pcloud.shell.interactive`).

Owns how a line becomes a call, and the exit codes. Concurrency: one line at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing

import click

from pcloud.client.api import Client
from pcloud.client.settings import load
from pcloud.model.errors import PcloudError
from pcloud.shell import output
from pcloud.shell.exits import Exit, exit_code
from pcloud.shell.framework import Command
from pcloud.shell.main import run
from pcloud.shell.output import note, report
from pcloud.shell.verb_table import TABLE, VERBS
from pcloud.shell.verbs import BadCommand, Call, Verb, split
from pcloud.shell.wait import View, view

LEAVE = frozenset({"quit", "exit"})
INTERRUPTED = "interrupted; what was asked for goes on in the daemon (deployable_status, jeos_list show it)"


class Shell:
    """Runs lines. Makes the client when a command first needs it."""

    def __init__(
        self,
        *,
        url: str | None = None,
        token_file: str | None = None,
        view: Callable[[], AbstractContextManager[View]] = view,
    ) -> None:
        self._url, self._token_file = url, token_file
        self._view = view
        self._client: Client | None = None

    def showing(self, view: Callable[[], AbstractContextManager[View]]) -> Shell:
        """Return a shell like this one that shows progress through `view`."""
        return Shell(url=self._url, token_file=self._token_file, view=view)

    def connect(self, *, timeout: float | None = None) -> Client:
        """Make a client of its own from the settings as they are now."""
        settings = load(url=self._url, token_file=self._token_file)
        return Client(settings) if timeout is None else Client(settings, timeout=timeout)

    @property
    def client(self) -> Client:
        """The client; made anew while there is no token, for the daemon may just have written its first."""
        if self._client is None or not self._client.settings.token:
            self.close()
            self._client = self.connect()
        return self._client

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def words(self, words: Sequence[str]) -> None:
        """Run one command given as words. PcloudError says why it did not work."""
        name, rest = words[0], list(words[1:])
        if name == "help":
            _say(help_text(rest))
            return
        if name in LEAVE:
            raise EOFError
        verb = VERBS.get(name)
        if verb is None:
            raise _unknown(name)
        if rest and rest[-1] in {"-h", "--help"}:
            _say(help_text([name]))
            return
        values, wait = verb.bind(rest)
        verb.run(Call(client=self.client, values=values, wait=wait, view=self._view))

    def line(self, line: str) -> Exit:
        """Run one line, report what went wrong, and return how it ended. EOFError when the line says to leave."""
        try:
            words = split(line)
            if words:
                self.words(words)
        except KeyboardInterrupt:
            note(INTERRUPTED)
            return Exit.INTERRUPTED
        except PcloudError as error:
            report("pcloudsh", error)
            return exit_code(error)
        return Exit.OK

    def script(self, lines: Iterable[str], *, keep_going: bool) -> Exit:
        """Run lines until one fails, or all with `keep_going`; return how the first that failed ended."""
        first = Exit.OK
        for number, line in enumerate(lines, 1):
            try:
                code = self.line(line)
            except EOFError:
                break
            if code != Exit.OK:
                first = first or code
                note(f"pcloudsh: line {number}: {line.strip()}")
                if not keep_going or code == Exit.INTERRUPTED:
                    break
        return first


def _unknown(name: str) -> BadCommand:
    import difflib

    close = difflib.get_close_matches(name, [*VERBS, "help", "quit", "exit"], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "help lists the commands"
    return BadCommand(*BadCommand.of("USAGE", f"there is no command {name!r}", hint=hint).problems)


def _say(text: str) -> None:
    """Print a text of several lines as wide as the terminal is."""
    for one in text.splitlines():
        output.line(one, hang=6)


def help_text(words: Sequence[str]) -> str:
    """Return the text of `help [COMMAND]`."""
    if len(words) > 1:
        raise BadCommand(*BadCommand.of("USAGE", "help takes one command", hint="usage: help [COMMAND]").problems)
    if words:
        own = {"help": "help [COMMAND]\n    List the commands, or explain one."}
        own |= dict.fromkeys(LEAVE, "quit, exit, Ctrl-D\n    Leave the shell. Deployables go on.")
        if words[0] in own:
            return own[words[0]]
        if words[0] not in VERBS:
            raise _unknown(words[0])
        return verb_help(VERBS[words[0]])
    parts = []
    width = max(len(verb.usage) for verb in TABLE if len(verb.usage) < 50) + 2
    for section in dict.fromkeys(verb.section for verb in TABLE):
        parts.append(f"{section}:")
        for verb in TABLE:
            if verb.section == section:
                usage = verb.usage.replace(" [--no-wait]", "")
                gap = f"\n{'':{width + 2}}" if len(usage) > width - 2 else " " * (width - len(usage))
                parts.append(f"  {usage}{gap}{verb.short}")
        parts.append("")
    parts += ["The shell:", f"  {'help [COMMAND]':{width}}List the commands, or explain one"]
    parts.append(f"  {'quit, exit, Ctrl-D':{width}}Leave; deployables go on")
    return "\n".join(parts)


def verb_help(verb: Verb) -> str:
    """Return the text of `help COMMAND`."""
    lines = [verb.usage, *(f"    {line}" for line in _wrap(verb.help))]
    width = max((len(argument.name) for argument in verb.arguments), default=0)
    lines += [f"      {argument.name:{width}}  {argument.help}" for argument in verb.arguments]
    if verb.waits:
        lines.append("    It waits until that is done; with --no-wait it returns at once.")
    return "\n".join([*lines, f"    Example: {verb.example}"])


def _wrap(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 90)


@click.command(
    cls=Command,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,
        "ignore_unknown_options": False,
        "max_content_width": 110,
    },
    examples=[
        ("pcloudsh", "an interactive shell, which tells of every failure and recovery"),
        ("pcloudsh deployable_list", "one command; its success is the exit code"),
        ("pcloudsh < script", "the commands of a file, up to the first that fails (-k: all)"),
    ],
)
@click.option("--url", metavar="URL", help="Where the daemon answers. [$PCLOUD_URL, else http://127.0.0.1:8780]")
@click.option(
    "--token-file",
    metavar="FILE",
    help="The file that holds the access token. [$PCLOUD_TOKEN, else $PCLOUD_HOME/token]",
)
@click.option("-k", "--keep-going", is_flag=True, help="In a script: go on after a command that failed.")
@click.version_option(package_name="pacemaker-cloud", message="%(prog)s %(version)s")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def cli(url: str | None, token_file: str | None, keep_going: bool, command: tuple[str, ...]) -> int:
    """The shell of pacemaker-cloud: make images, assemblies and deployables, start them, watch them.

    Without a COMMAND and on a terminal it is interactive: Tab completes commands and names, the history is kept, and
    failures and recoveries are told as they happen. `pcloudsh help` lists the commands.
    """
    with closing(Shell(url=url, token_file=token_file)) as shell:
        if command:
            try:
                shell.words(command)
            except EOFError:
                return Exit.OK
            return Exit.OK
        if sys.stdin.isatty():
            from pcloud.shell.interactive import interact

            return interact(shell)
        return shell.script(sys.stdin, keep_going=keep_going)


def main() -> int:
    """Run `pcloudsh` and return its exit code."""
    return run(cli, "pcloudsh")


__all__ = ["Shell", "cli", "help_text", "main"]
