"""What commands print: tables for people, JSON and YAML for programs, errors and notes on the other stream.

Colour only on a terminal, and never with $NO_COLOR; text of a table that goes into a pipe is never cut.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from pcloud.shell.text import clean, state_colour

if TYPE_CHECKING:
    from rich.console import Console

    from pcloud.model.errors import PcloudError

FORMATS = ("table", "json", "yaml")


def console(*, stderr: bool = False) -> Console:
    """Make a rich console for one of our streams."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, emoji=False, markup=False, width=None if stream.isatty() else 10_000)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print rows under column heads, `STATE` in colour. Without rows `empty` is said on standard error."""
    from rich.table import Table
    from rich.text import Text

    found = [[clean(cell, lines=False) for cell in row] for row in rows]
    if not found:
        note(empty)
        return
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    wide = len(columns) - 1
    for number, column in enumerate(columns):
        grid.add_column(column, overflow="fold", no_wrap=number < wide)
    for row in found:
        grid.add_row(
            *(
                Text(cell, style=state_colour(cell) if head == "STATE" else "")
                for head, cell in zip(columns, row, strict=True)
            )
        )
    out = console()
    with out.capture() as capture:
        out.print(grid)
    for line in capture.get().splitlines():
        click.echo(line.rstrip(), color=_colour())


def document(value: Any, form: str) -> None:
    """Print a value as `json` or `yaml`."""
    import msgspec

    plain = msgspec.to_builtins(value)
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(plain), indent=2))
    else:
        import yaml

        click.echo(yaml.dump(plain, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True), nl=False)


def json_line(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    import msgspec

    click.echo(msgspec.json.encode(value))


def note(text: str) -> None:
    """Say something beside the result: on standard error."""
    click.echo(clean(text, lines=True), err=True)


@contextlib.contextmanager
def sending(file: BinaryIO, size: int, what: str) -> Iterator[BinaryIO]:
    """A file whose reading is shown as progress, on a terminal."""
    if not sys.stderr.isatty():
        yield file
        return
    from rich.progress import wrap_file

    with wrap_file(file, size, description=what, console=console(stderr=True), transient=True) as shown:
        yield shown


def done(text: str) -> None:
    """Say on standard output what was done."""
    click.echo(clean(text, lines=True))


def error_text(error: PcloudError) -> str:
    """An error as people read it: every problem, where it is, and what to do next."""
    return "\n".join(clean(str(problem), lines=True) for problem in error.problems)


def report(program: str, error: PcloudError) -> None:
    """Print an error on standard error."""
    colour = _colour(sys.stderr)
    head = click.style(f"{program}:", fg="red", bold=True) if colour else f"{program}:"
    click.echo(f"{head} {error_text(error)}", err=True, color=colour)


def styled(text: str, state: str) -> str:
    """Text in the colour of a state; click drops the colour where the stream is no terminal."""
    fg = state_colour(state)
    return click.style(text, fg=fg) if fg and _colour() else text


def _colour(stream: Any = None) -> bool:
    return not os.environ.get("NO_COLOR") and bool((stream or sys.stdout).isatty())
