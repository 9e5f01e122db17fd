"""Commands about what happened: events and explain."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from pcloud.shell import output as out
from pcloud.shell.exits import Exit
from pcloud.shell.framework import PART, Command, Session, output_option, pass_session, split_part

if TYPE_CHECKING:
    from pcloud.client.records import CloudEvent
    from pcloud.model.errors import PcloudError


@click.command(
    cls=Command,
    short_help="Show what happened: changes of state, failures, recoveries.",
    examples=[
        ("pcloud events -f", "the newest, then all that happens, until Ctrl-C"),
        ("pcloud events shop/web --limit 20", "one guest and what is in it"),
        ("pcloud events -f -o json | jq 'select(.data.state == \"failed\")'", "one CloudEvent a line, for programs"),
    ],
)
@click.argument("part", required=False, metavar="[NAME[/ASSEMBLY[/RESOURCE]]]", type=PART)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option(
    "-n", "--limit", type=click.IntRange(0, 1000), default=100, show_default=True, help="How many of the newest."
)
@click.option("--after", metavar="ID", help="All events after this one, oldest first, instead of the newest.")
@click.option("--type", "kind", metavar="TYPE", help="Only this type, such as resource.state.")
@output_option
@pass_session
def events(
    session: Session, part: str | None, follow: bool, limit: int, after: str | None, kind: str | None, output: str
) -> None:
    """Show what happened: every change of state, failure, recovery and escalation.

    With -o json each line is one CloudEvent; its data holds deployable, assembly, resource, state and reason. The stream of
    -f survives a restart of the daemon without losing or repeating an event.
    """
    names = split_part(part, parts=(1, 3)) if part else ("", "", "")
    filters = dict(zip(("deployable", "assembly", "resource"), names, strict=True)) | {"type": kind or ""}
    client = session.client
    if after is not None:
        page = client.events(filters, after=after, limit=max(limit, 1))
    else:
        page = client.events(filters, limit=max(limit, 1), newest=True)
    shown = sorted(page.events, key=lambda event: (len(event.id), event.id))
    for event in shown[-limit:] if limit and after is None else shown if limit else []:
        _show(event, output)
    if not follow:
        return
    # A page of the newest that match ends at or before the log's end; nothing that matches lies between.
    try:
        for event in client.follow(filters, after=str(page.next), on_lost=_lost, on_back=_back):
            if _matches(event, filters):
                _show(event, output)
    except KeyboardInterrupt:
        # Nothing was asked for that could go on: Ctrl-C is how it ends.
        click.get_current_context().exit(Exit.INTERRUPTED)


def _show(event: CloudEvent, output: str) -> None:
    from pcloud.shell.telling import event_line

    if output == "json":
        out.json_line(event)
    elif output == "yaml":
        click.echo("---")
        out.document(event, "yaml")
    else:
        out.line(event_line(event, now=time.time()), hang=10, state=event.text("state"))


def _matches(event: CloudEvent, filters: dict[str, str]) -> bool:
    """Filter here too: an older daemon's stream may not."""
    from pcloud.shell.telling import PREFIX

    wanted = {name: value for name, value in filters.items() if value and name != "type"}
    kind = filters["type"].removeprefix(PREFIX)
    return all(event.text(name) == value for name, value in wanted.items()) and (
        not kind or event.type.removeprefix(PREFIX) == kind
    )


def _lost(error: PcloudError) -> None:
    out.note(f"{error.problems[0].message}; events go on when it is back")


def _back() -> None:
    out.note("the daemon is back")


@click.command(
    cls=Command,
    short_help="Say why: what was done and why, and why nothing is done now.",
    examples=[
        ("pcloud explain shop", "every decision about it, oldest first"),
        ("pcloud explain shop/web/httpd --limit 1", "the last one about one service"),
        ("pcloud explain shop/web --now", "why nothing happens to this guest"),
    ],
)
@click.argument("part", metavar="NAME[/ASSEMBLY[/RESOURCE]]", type=PART)
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many decisions.")
@click.option("--now", "now_only", is_flag=True, help="Only what is not being done now, and why.")
@output_option
@pass_session
def explain(session: Session, part: str, limit: int, now_only: bool, output: str) -> None:
    """Say why: what is not being done now and what it waits for; then, for each decision, what was seen, by which signal,
    which rule applied, what was done, what it cost.

    With -o json the decisions alone are written, or with --now what stands still.
    """
    import msgspec

    from pcloud.client.errors import BadReply
    from pcloud.client.records import Decision
    from pcloud.shell.telling import standing, timeline

    name, assembly, resource = split_part(part, parts=(1, 3))
    if now_only or output == "table":
        stands = session.client.standstill(name, assembly=assembly, resource=resource)
        if output == "table":
            for line in standing(stands, now=time.time()):
                out.line(line, hang=23)
        else:
            out.document(stands, output)
    if now_only:
        return
    found = session.client.explain(name, assembly=assembly, resource=resource, limit=limit)
    if output != "table":
        out.document(found, output)
        return
    if not found:
        out.note(f"no decision about {part} is recorded: the engine has had nothing to do there")
        return
    try:
        decisions = msgspec.convert(found, list[Decision], strict=False)
    except msgspec.ValidationError as error:
        raise BadReply.of(
            "BAD_REPLY", f"a decision's record can not be read: {error}", hint="-o json shows it"
        ) from None
    click.echo()
    for line in timeline(decisions, now=time.time()):
        out.line(line, hang=13)
