"""Commands that ask what would happen: simulate and replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pcloud.shell import output as out
from pcloud.shell.exits import Exit
from pcloud.shell.framework import DEPLOYABLE, Command, Session, output_option, pass_session


@click.command(
    cls=Command,
    short_help="Say what a fault or a change would do; nothing is touched.",
    examples=[
        ("pcloud simulate shop 'kill guest db'", "what the death of a guest would lead to"),
        ("pcloud simulate shop 'apply shop.yaml'", "what a changed manifest would restart"),
        ("pcloud simulate shop 'infrastructure down 60s' 'kill web/httpd'", "one after the other"),
    ],
)
@click.argument("name", type=DEPLOYABLE)
@click.argument("faults", nargs=-1, required=True, metavar="FAULT...")
@output_option
@pass_session
def simulate(session: Session, name: str, faults: tuple[str, ...], output: str) -> None:
    """Say what faults and changes would do to a running deployable.

    The very code that recovers it runs in a simulated world that begins as the real one stands. A FAULT is one of: kill A/R;
    kill guest A; hang A/R; hang guest A; cut off A; heal A; fail start A/R [N]; fail stop A/R; infrastructure down 60s; kill
    engine; pause; resume; stop; start; wait 30s; apply FILE.
    """
    report = session.client.simulate(name, list(faults), _files(faults))
    if output != "table":
        out.document(report, output)
        return
    for moment in report["timeline"]:
        for line, state in _lines(moment):
            out.line(line, hang=16, state=state)
    restarted = ", ".join(report["restarted"]) or "nothing"
    click.echo(f"after {report['seconds']:.1f} s: {report['state']}{_because(report)}; started again: {restarted}")


def _files(faults: tuple[str, ...]) -> dict[str, str]:
    files: dict[str, str] = {}
    for fault in faults:
        word, _, file = " ".join(fault.split()).partition(" ")
        if word.lower() == "apply" and file:
            try:
                files[file] = Path(file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise click.UsageError(f"{file} can not be read: {error}") from None
    return files


def _lines(moment: dict[str, Any]) -> list[tuple[str, str]]:
    """The line of a moment, with the state whose colour it has; none for what is not told."""
    when = f"{moment['seconds']:9.3f} s  "
    subject = f" {moment['subject']}" if moment.get("subject") else ""
    if moment["kind"] == "fault":
        return [(f"{when}== {moment['text']}", "suspect")]
    if moment["kind"] == "action":
        if moment["state"] == "cancelled":  # a newer decision took its place and says what is done; -o json has both
            return []
        failed = f" ({moment['state']})" if moment["state"] != "done" else ""
        return [(f"{when}-> {moment['text']}{subject}{failed}: {moment['why']}", "")]
    why = f": {moment['why']}" if moment["why"] else ""
    return [(f"{when}   {subject.strip() or 'all of it'} {moment['text']}{why}", moment["text"])]


def _because(report: dict[str, Any]) -> str:
    return f" ({report['reason']})" if report.get("reason") else ""


@click.command(
    cls=Command,
    short_help="Decide the journalled decisions again; the same must come out.",
    examples=[("pcloud replay shop --limit 20", "the newest twenty; exit code 1 when one comes out otherwise")],
)
@click.argument("name", type=DEPLOYABLE)
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many decisions.")
@output_option
@pass_session
def replay(session: Session, name: str, limit: int, output: str) -> int:
    """Decide the journalled decisions of a deployable again, from the state that each was made from, and compare."""
    verdicts = session.client.replay(name, limit=limit)
    wrong = [v for v in verdicts if v["result"] in ("different", "failed")]
    if output != "table":
        out.document(verdicts, output)
        return Exit.FAILED if wrong else Exit.OK
    for verdict in wrong:
        click.echo(f"decision {verdict['number']}: {verdict['result']} {verdict['detail']}".rstrip())
        for sign, key in (("-", "missing"), ("+", "added")):
            for action in verdict[key]:
                click.echo(f"  {sign} {action}")
    again = [v for v in verdicts if v["result"] != "nothing recorded"]
    click.echo(f"{len(again) - len(wrong)} of {len(again)} decisions come out the same")
    return Exit.FAILED if wrong else Exit.OK
