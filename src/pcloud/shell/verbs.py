"""How commands of `pcloudsh` are declared and called: one table, from which help, completion and documents are made.

A command line is split into words as a POSIX shell does, but nothing is expanded. Pure but for what a verb's function does.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import msgspec

from pcloud.client.api import Client
from pcloud.model.errors import PcloudError
from pcloud.shell.wait import View

NO_WAIT = "--no-wait"


class BadCommand(PcloudError):
    """A line that is no command, or has the wrong arguments."""


class Argument(msgspec.Struct, frozen=True):
    """One argument of a command, by position."""

    name: str
    kind: str
    """What completes it: `deployable`, `assembly`, `member`, `resource`, `template`, `jeos`, `arch`, `infrastructure`,
    `monitor`, `command`, or `new`, `number`, `seconds`, which nothing does."""
    help: str
    optional: bool = False
    default: str = ""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a command."""

    client: Client
    values: dict[str, str]
    """By the argument's name."""
    wait: bool = True
    view: Callable[[], AbstractContextManager[View]]
    """Opens what shows progress."""

    def __getitem__(self, name: str) -> str:
        return self.values[name]


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """One command."""

    name: str
    arguments: tuple[Argument, ...] = ()
    help: str
    """The first sentence is shown in lists."""
    example: str
    run: Callable[[Call], None]
    waits: bool = False
    """Whether it waits for what it asked for; then it takes `--no-wait`."""
    section: str = ""

    @property
    def usage(self) -> str:
        """The command with its arguments, optional ones in brackets."""
        text = self.name
        for argument in self.arguments:
            text += f" [{argument.name}" if argument.optional else f" {argument.name}"
        text += "]" * sum(argument.optional for argument in self.arguments)
        return text + (f" [{NO_WAIT}]" if self.waits else "")

    @property
    def short(self) -> str:
        """The first sentence of the help, without its full stop."""
        return self.help.split(". ")[0].split(".\n")[0].rstrip(".")

    def bind(self, words: Sequence[str]) -> tuple[dict[str, str], bool]:
        """Return the arguments' values and whether to wait; BadCommand when they do not fit."""
        wait = True
        given = []
        for word in words:
            if self.waits and word == NO_WAIT:
                wait = False
            elif word.startswith("-") and word != "-":
                raise self._bad(f"{self.name} knows no option {word}")
            else:
                given.append(word)
        least = sum(not argument.optional for argument in self.arguments)
        if len(given) < least:
            raise self._bad(f"{self.name} needs {self.arguments[len(given)].name}")
        if len(given) > len(self.arguments):
            raise self._bad(f"{self.name} takes {len(self.arguments)} arguments, not {len(given)}")
        values = {argument.name: argument.default for argument in self.arguments}
        for argument, word in zip(self.arguments, given, strict=False):
            _check(self, argument, word)
            values[argument.name] = word
        return values, wait

    def _bad(self, message: str) -> BadCommand:
        return BadCommand(*BadCommand.of("USAGE", message, hint=f"usage: {self.usage}").problems)


def _check(verb: Verb, argument: Argument, word: str) -> None:
    """Refuse what can not be a value of this argument; names are judged by the daemon."""
    wanted = ""
    if argument.kind == "number" and not (word.isascii() and word.isdigit() and 1 <= int(word[:10]) <= 1_000_000):
        wanted = "a whole number above 0"
    elif argument.kind == "seconds" and not _positive(word):
        wanted = "a number of seconds above 0"
    elif argument.kind == "monitor" and word not in {"am", "pm", "none"}:
        wanted = "am (an agent in the guest), pm (plain sshd) or none (by the infrastructure alone)"
    elif not word or not word.isprintable():
        wanted = "a name"
    if wanted:
        problems = BadCommand.of(
            "USAGE", f"{argument.name} is {wanted}, not {word!r}", hint=f"usage: {verb.usage}"
        ).problems
        raise BadCommand(*problems)


def _positive(word: str) -> bool:
    try:
        return 0 < float(word) < 366 * 86400
    except ValueError:
        return False


def split(line: str) -> list[str]:
    """Split a line into words; a comment after # is dropped. BadCommand when a quotation is not closed."""
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise BadCommand(*BadCommand.of("USAGE", f"the line can not be read: {str(error).lower()}").problems) from None
