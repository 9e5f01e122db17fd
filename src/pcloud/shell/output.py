"""What commands print: tables for people, JSON and YAML for programs, errors and notes on the other stream.

Colour only on a terminal, and never with $NO_COLOR. Nothing is cut: what does not fit into a terminal goes on in the
next line, under where it began; what goes into a pipe stays in one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from pcloud.shell.text import clean, state_colour

if TYPE_CHECKING:
    from rich.console import Console

    from pcloud.model.errors import PcloudError

FORMATS = ("table", "json", "yaml")
NARROWEST = 12
"""Characters that a column keeps at least when another one shall stay in one line."""


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
    out = console()
    whole = kept_whole([max(len(cell) for cell in cells) for cells in zip(columns, *found, strict=True)], out.width)
    for number, column in enumerate(columns):
        grid.add_column(column, overflow="fold", no_wrap=number in whole)
    for row in found:
        grid.add_row(
            *(
                Text(cell, style=state_colour(cell) if head == "STATE" else "")
                for head, cell in zip(columns, row, strict=True)
            )
        )
    with out.capture() as capture:
        out.print(grid)
    for line in capture.get().splitlines():
        click.echo(line.rstrip(), color=_colour())


def kept_whole(widths: Sequence[int], width: int) -> set[int]:
    """Which columns of a table stay in one line on a terminal of `width` characters: the narrowest, as far as they fit.

    The others share what is left, and go on in the next line.
    """
    left = width - 2 * len(widths)
    found: set[int] = set()
    for others, number in zip(
        reversed(range(len(widths))), sorted(range(len(widths)), key=widths.__getitem__), strict=True
    ):
        if widths[number] + others * NARROWEST > left and widths[number] > NARROWEST:
            break
        found.add(number)
        left -= widths[number]
    return found


def line(text: str, *, hang: int = 0, state: str = "") -> None:
    """Print one line in the colour of `state`. On a terminal what does not fit goes on beneath, indented by `hang`."""
    stream = sys.stdout
    if stream.isatty():
        text = hung(text, hang, shutil.get_terminal_size().columns)
    click.echo(styled(text, state))


def hung(text: str, hang: int, width: int) -> str:
    """Break a line between words at `width`; its further lines are indented by `hang`."""
    if len(text) <= width:
        return text
    return "\n".join(
        textwrap.wrap(
            text,
            max(width, hang + NARROWEST),
            subsequent_indent=" " * hang,
            drop_whitespace=True,
            replace_whitespace=False,
            break_on_hyphens=False,
        )
    )


def document(value: Any, form: str) -> None:
    """Print a value as `json` or `yaml`."""
    import msgspec

    plain = msgspec.to_builtins(value)
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(plain), indent=2))
    else:
        import yaml

        click.echo(yaml.dump(plain, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True), nl=False)


def shown(value: Any, form: str, as_table: Callable[[], object]) -> None:
    """Print a value as `json` or `yaml`, or have `as_table` print it for people."""
    if form == "table":
        as_table()
    else:
        document(value, form)


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
