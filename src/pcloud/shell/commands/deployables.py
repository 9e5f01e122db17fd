"""Commands about deployables: apply, get, status, manifest, start … delete."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from pcloud.shell import listing
from pcloud.shell import output as out
from pcloud.shell.framework import DEPLOYABLE, Command, Session, output_option, pass_session, wait_options
from pcloud.shell.text import one_of

if TYPE_CHECKING:
    from pcloud.client.records import DeployableSummary
    from pcloud.model.deployable import ResourceState
    from pcloud.model.status import DeployableStatus

MAX_MANIFEST = 16 * 1024 * 1024
"""Bytes; a larger document is refused before it is sent."""
FORMS = {".xml": "xml", ".json": "json", ".yaml": "yaml", ".yml": "yaml"}


@click.command(
    cls=Command,
    examples=[
        (
            "pcloud apply -f shop.yaml --wait",
            "start it, or change it to what the file says; return when all of it runs",
        ),
        ("pcloud apply -f shop.yaml --dry-run", "check the file and say what would change"),
        ("cat shop.xml | pcloud apply -f -", "read standard input; XML is recognised"),
    ],
)
@click.option(
    "-f",
    "--file",
    "source",
    required=True,
    type=click.File("rb"),
    help="The manifest (YAML, XML or JSON); - is standard input.",
)
@click.option("--dry-run", is_flag=True, help="Check and compare only; nothing is changed.")
@click.option("--start/--no-start", default=True, show_default=True, help="Whether it shall run.")
@wait_options(1800)
@output_option
@pass_session
def apply(
    session: Session, source: BinaryIO, dry_run: bool, start: bool, wait: bool, timeout: float, output: str
) -> None:
    """Make a deployable be what a manifest says.

    What is not there is made and started, what differs is changed, and nothing else is touched. All errors of the
    document are told at once, and then nothing is applied. With --wait the exit code is 0 when all of it runs, 1 when it
    can not, 6 when it took longer than --timeout.
    """
    from pcloud.model.deployable import ResourceState

    if wait and (dry_run or not start):
        raise click.UsageError("--wait needs a start to wait for")
    content = source.read(MAX_MANIFEST + 1)
    if len(content) > MAX_MANIFEST:
        raise click.UsageError(f"the document is larger than {MAX_MANIFEST >> 20} MiB")
    file = getattr(source, "name", "-")
    file = "-" if not isinstance(file, str) or file in {"-", "<stdin>"} else file
    client = session.client
    known = {found.name for found in client.deployables()} if wait else set()
    applied = client.apply(content, form=document_form(file, content), file=file, start=start, dry_run=dry_run)
    changes = "\n".join(f"  {path}" for path in applied.changed)
    if output != "table":
        out.document(applied, output)
    elif dry_run:
        verb = "would be created" if applied.created else "would change" if applied.changed else "would stay as it is"
        out.done(f"{applied.name} {verb}" + (f"\n{changes}" if changes else ""))
    else:
        verb = "created" if applied.created else "changed" if applied.changed else "unchanged"
        out.done(f"{applied.name} {verb}" + (f"\n{changes}" if changes and not applied.created else ""))
    if wait:
        before = client.status(applied.name) if applied.name in known and applied.changed else None
        _wait(session, applied.name, ResourceState.RUNNING, timeout, before)


def document_form(file: str, content: bytes) -> str:
    """Tell YAML, XML and JSON apart: by the file's name, else by how the document begins."""
    if form := FORMS.get(Path(file).suffix.lower()):
        return form
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    return "xml" if start.startswith(b"<") else "json" if start.startswith(b"{") else "yaml"


def _wait(session: Session, name: str, goal: ResourceState, timeout: float, before: DeployableStatus | None) -> None:
    from pcloud.shell import wait

    with wait.view() as show:
        wait.for_state(session.client, name, goal, timeout=timeout, show=show, before=before)


@click.command(
    cls=Command,
    examples=[("pcloud get", "all deployables"), ("pcloud get -o json | jq '.[].name'", "their names, for a script")],
)
@click.argument("name", required=False, type=DEPLOYABLE)
@output_option
@pass_session
def get(session: Session, name: str | None, output: str) -> None:
    """List the deployables, or one of them."""
    from pcloud.model.errors import NotFound

    found = session.client.deployables()
    if name is not None:
        found = [one for one in found if one.name == name]
        if not found:
            raise NotFound.of("NOT_FOUND", f"there is no deployable {name!r}", hint="`pcloud get` lists all")
    _list(found, output)


def _list(found: list[DeployableSummary], output: str) -> None:
    out.shown(found, output, lambda: listing.deployables(found))


@click.command(
    cls=Command,
    short_help="Show its guests and services.",
    examples=[
        ("pcloud status", "one line for each deployable, as `pcloud get`"),
        ("pcloud status shop", "its guests and services"),
        ("pcloud status shop -o json | jq -r .state", "one word, for a script"),
        ("pcloud status shop --watch", "keep it on the screen"),
    ],
)
@click.argument("name", required=False, type=DEPLOYABLE)
@click.option("-w", "--watch", is_flag=True, help="Show it live, until Ctrl-C.")
@output_option
@pass_session
def status(session: Session, name: str | None, watch: bool, output: str) -> None:
    """Show a deployable with its assemblies (guests) and resources (services); without NAME, one line for each."""
    if name is None:
        if watch:
            raise click.UsageError("--watch needs the name of a deployable")
        _list(session.client.deployables(), output)
        return
    if watch:
        if output != "table" or not sys.stdout.isatty():
            raise click.UsageError("--watch needs a terminal and the table form")
        _watch(session, name)
    found = session.client.status(name)
    out.shown(found, output, lambda: listing.status(found))


def _watch(session: Session, name: str) -> None:
    from pcloud.shell import wait

    with wait.view() as show:
        patience = wait.Patience()
        while True:
            if (found := patience.ask(lambda: session.client.status(name))) is not None:
                show.status(found)
            time.sleep(wait.INTERVAL)


@click.command(
    cls=Command, examples=[("pcloud manifest shop > shop.yaml", ""), ("pcloud manifest shop --format xml", "")]
)
@click.argument("name", type=DEPLOYABLE)
@click.option("--format", "form", type=click.Choice(["yaml", "xml", "json"]), default="yaml", show_default=True)
@pass_session
def manifest(session: Session, name: str, form: str) -> None:
    """Print the document of a deployable, as it is in force."""
    click.echo(session.client.manifest(name, form=form).rstrip(b"\n"))


def _simple(action: str, short: str, text: str, said: str, goal: str = "") -> click.Command:
    """Make the command for an action without arguments of its own; with a `goal` it can wait for that state."""

    def run(session: Session, /, name: str, **options: Any) -> None:
        before = session.client.status(name) if options.get("wait") else None
        session.client.command(name, action)
        if not options.get("wait"):
            out.done(f"{name}: {said}")
            return
        from pcloud.model.deployable import ResourceState

        if before is not None and before.state == goal and action != "reload":
            before = None
        _wait(session, name, ResourceState(goal), options["timeout"], before)
        out.done(f"{name}: {goal}")

    decorated = pass_session(run)
    if goal:
        decorated = wait_options(600)(decorated)
    decorated = click.argument("name", type=DEPLOYABLE)(decorated)
    examples = [(f"pcloud {action} shop", "")]
    if goal:
        examples.append((f"pcloud {action} shop --wait", f"return when it is {goal}, or can not be"))
    return click.command(name=action, cls=Command, short_help=short, help=text, examples=examples)(decorated)


start = _simple(
    "start",
    "Start it: guests and services, in order.",
    "Start a deployable: its guests and services, in order. What runs already is left alone.",
    "start requested",
    "running",
)
stop = _simple(
    "stop",
    "Stop it, in reverse order.",
    "Stop a deployable in reverse order. Guests keep their disks; `start` is the way back.",
    "stop requested",
    "stopped",
)
reload = _simple(
    "reload",
    "Apply its stored definition again.",
    "Read a deployable's stored definition again and apply what differs; nothing that is as it shall be is restarted.",
    "reload requested",
    "running",
)
pause = _simple(
    "pause",
    "Pause recovery, for repair or backup.",
    "Pause recovery, for repair or backup: failures are seen and told, nothing is done about them.",
    "recovery paused",
)
resume = _simple("resume", "Let recovery go on.", "Let recovery go on after `pause`.", "recovery resumed")


@click.command(
    cls=Command,
    short_help="Try again what was given up.",
    examples=[
        ("pcloud recover shop", "everything in it that was given up"),
        ("pcloud recover shop --assembly web --resource httpd --wait", "one service; return when all runs"),
    ],
)
@click.argument("name", type=DEPLOYABLE)
@click.option("--assembly", help="Only this assembly.")
@click.option("--resource", help="Only this resource of it.")
@wait_options(600)
@pass_session
def recover(
    session: Session, name: str, assembly: str | None, resource: str | None, wait: bool, timeout: float
) -> None:
    """Try again what was given up (failed, unrecoverable): counters are cleared, then it is started.

    The way back when the cause of a failure has been mended.
    """
    from pcloud.model.deployable import ResourceState

    if resource and not assembly:
        raise click.UsageError("--resource needs --assembly")
    which = {key: value for key, value in (("assembly", assembly), ("resource", resource)) if value}
    before = session.client.status(name) if wait else None
    session.client.command(name, "recover", **which)
    if not wait:
        out.done(f"{name}: recovery requested")
        return
    _wait(session, name, ResourceState.RUNNING, timeout, before)
    out.done(f"{name}: running")


@click.command(
    cls=Command,
    short_help="Stop it and remove all of it.",
    examples=[
        ("pcloud delete shop --wait", "return when nothing of it is left"),
        ("pcloud delete shop --yes", "do not ask"),
    ],
)
@click.argument("name", type=DEPLOYABLE)
@click.option("-y", "--yes", is_flag=True, help="Do not ask, even on a terminal.")
@click.option("--force", is_flag=True, help="Also one that belongs to a stack, which then lacks it.")
@wait_options(600)
@pass_session
def delete(session: Session, name: str, yes: bool, force: bool, wait: bool, timeout: float) -> None:
    """Stop a deployable in order and remove all of it: guests, disks, addresses, keys, definition. One that belongs to a
    stack is refused: `pcloud stack delete` removes both.
    """
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        found = session.client.status(name)
        guests = one_of(len(found.assemblies), "guest")
        click.confirm(f"delete {name} with its {guests} and their disks?", abort=True)
    job = session.client.delete(name, force=force)
    if not wait:
        out.done(f"{name}: deletion requested" + (f" (job {job})" if job else ""))
        return
    from pcloud.shell import wait as waiting

    with waiting.view() as show:
        waiting.for_job(session.client, job, timeout=timeout, show=show)
    out.done(f"{name}: deleted")
