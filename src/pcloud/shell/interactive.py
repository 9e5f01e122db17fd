"""The interactive `pcloudsh`: prompt, completion, history, and events that appear above the line being typed.

Concurrency: the main thread reads lines and runs them; one thread of its own follows the daemon's events and says them
through the `Announcer`, which knows where a line can be put at the moment: above the prompt, above a progress picture,
or on the screen as it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, ThreadedCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from pcloud.client.errors import Refused, Unreachable
from pcloud.model.errors import PcloudError
from pcloud.shell import wait
from pcloud.shell.exits import Exit
from pcloud.shell.names import names
from pcloud.shell.output import error_text, note, styled
from pcloud.shell.pcloudsh import LEAVE, Shell
from pcloud.shell.telling import Recoveries
from pcloud.shell.verb_table import VERBS

PROMPT = "pcloudsh> "
COMPLETION_TIMEOUT = 1.0
RETRY = 1.0
"""Seconds between attempts to reach a daemon that was never there."""


class Announcer:
    """Says lines of the event thread where they do no harm."""

    def __init__(self) -> None:
        self._lock = Lock()
        # The real stream: prompt_toolkit's stand-in loses what is written to it after the prompt is done.
        self._say: Callable[[str], None] = _onto(sys.stdout)

    def say(self, line: str) -> None:
        """Say a line now."""
        with self._lock:
            self._say(line)

    @contextlib.contextmanager
    def through(self, say: Callable[[str], None]) -> Iterator[None]:
        """Say lines through `say` for a while."""
        with self._lock:
            before, self._say = self._say, say
        try:
            yield
        finally:
            with self._lock:
                self._say = before

    @contextlib.contextmanager
    def view(self) -> Iterator[wait.View]:
        """Show progress, with our lines above it."""
        with wait.view() as show, self.through(show.say):
            yield show


def _onto(stream: TextIO) -> Callable[[str], None]:
    """Return what writes lines onto a stream."""

    def say(line: str) -> None:
        stream.write(line + "\n")
        stream.flush()

    return say


class VerbCompleter(Completer):
    """Completes commands, and arguments by asking the daemon."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what the word before the cursor can become."""
        before = document.text_before_cursor
        words = before.split()
        typed = "" if not words or before[-1:].isspace() else words.pop()
        for candidate, meaning in self._candidates(words):
            if candidate.startswith(typed):
                yield Completion(candidate, start_position=-len(typed), display_meta=meaning)

    def _candidates(self, words: list[str]) -> list[tuple[str, str]]:
        """What can follow these words, with what it means."""
        if not words:
            own = [("help", "List the commands, or explain one"), *((name, "Leave") for name in sorted(LEAVE))]
            return [(verb.name, verb.short) for verb in VERBS.values()] + own
        given = [word for word in words[1:] if not word.startswith("-")]
        if words[0] == "help":
            return [(name, verb.short) for name, verb in VERBS.items()] if not given else []
        verb = VERBS.get(words[0])
        if verb is None or len(given) >= len(verb.arguments):
            return []
        argument = verb.arguments[len(given)]
        try:
            with self._shell.connect(timeout=COMPLETION_TIMEOUT) as client:
                return [(name, argument.help) for name in names(client, argument.kind, given)]
        except PcloudError:
            return []


def history() -> History:
    """The history that is kept from one run to the next; in memory only where the folder can not be written."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()) / "pcloud"
    path = folder / "pcloudsh_history"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def watch(shell: Shell, announcer: Announcer, stop: Flag) -> None:
    """Follow the daemon's events until `stop`, and say failures, recoveries and whatever is of importance."""
    recoveries = Recoveries()

    def lost(error: PcloudError) -> None:
        announcer.say(f"events: {error.problems[0].message}; waiting for it to come back")

    while not stop.is_set():
        try:
            with shell.connect() as client:
                cursor = client.cursor()
                for event in client.follow(
                    after=cursor, stop=stop, on_lost=lost, on_back=lambda: announcer.say("events: the daemon is back")
                ):
                    if line := recoveries.tell(event, now=time.time()):
                        announcer.say(styled(line, event.text("state")))
        except Unreachable:
            stop.wait(RETRY)
        except Refused as error:
            # Before its first start a daemon has no token; with a wrong one nothing changes by trying again.
            if error.status != 401 or client.settings.token:
                announcer.say(f"events are not shown: {error_text(error)}")
                return
            stop.wait(RETRY)
        except PcloudError as error:
            announcer.say(f"events are not shown: {error_text(error)}")
            return


def greeting(shell: Shell) -> str:
    """The first lines: which daemon this is, and how to go on."""
    try:
        version = shell.client.version()
        first = f"daemon {version.version} on {version.host or shell.client.settings.url}"
    except PcloudError as error:
        first = error_text(error)
    return f"{first}\nhelp lists the commands, Tab completes, Ctrl-D leaves; failures and recoveries are told as they happen"


def interact(shell: Shell) -> Exit:
    """Read and run lines until Ctrl-D, `quit` or `exit`. Returns OK: what failed was told when it did."""
    announcer = Announcer()
    shell = shell.showing(announcer.view)
    stop = Flag()
    session: PromptSession[str] = PromptSession(
        history=history(),
        completer=ThreadedCompleter(VerbCompleter(shell)),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        enable_history_search=False,
    )
    note(greeting(shell))
    # A daemon thread: at the end it may be in the middle of a read, which nothing needs to wait for.
    Thread(target=watch, args=(shell, announcer, stop), name="events", daemon=True).start()
    try:
        while True:
            try:
                with patch_stdout(raw=True), announcer.through(_onto(sys.stdout)):
                    line = session.prompt(PROMPT)
            except KeyboardInterrupt:
                continue
            shell.line(line)
    except EOFError:
        return Exit.OK
    finally:
        stop.set()
