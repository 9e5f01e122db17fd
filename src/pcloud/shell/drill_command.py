"""Commands about drills: do one, and what became of those before."""

from __future__ import annotations

import time
from typing import Any

import click

from pcloud.shell import output as out
from pcloud.shell.exits import Exit
from pcloud.shell.framework import DEPLOYABLE, Command, Seconds, Session, output_option, pass_session
from pcloud.shell.text import clean, clock

FAULTS = ("service-killed", "guest-killed", "link-cut", "engine-killed")


@click.command(
    cls=Command,
    short_help="Do one real fault and say how long recovery took.",
    examples=[
        ("pcloud drill shop", "kill the first service; exit code 1 when not all ran again within a minute"),
        ("pcloud drill shop --fault guest-killed --assembly web --budget 20s", "a guest, with a budget of its own"),
        ("pcloud drill shop --probe http://10.0.3.7/", "and say for how long the page did not answer"),
        (
            "pcloud drill shop --fault engine-killed -o json",
            "guests and services must not notice; the report for programs",
        ),
    ],
)
@click.argument("name", type=DEPLOYABLE)
@click.option(
    "--fault", type=click.Choice(FAULTS), default=FAULTS[0], show_default=True, help="What is done, for real."
)
@click.option("--assembly", default="", help="To this assembly. [the first one]")
@click.option("--resource", default="", help="To this resource. [the first one]")
@click.option(
    "--budget", type=Seconds(), default="60s", show_default=True, metavar="TIME", help="All must run again within it."
)
@click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="URL",
    help="Ask for this page all the while, from the daemon's host, and say what was lost; may be given ten times.",
)
@click.option("--force", is_flag=True, help="Also where it is not safe.")
@output_option
@pass_session
def drill(
    session: Session,
    name: str,
    fault: str,
    assembly: str,
    resource: str,
    budget: float,
    probes: tuple[str, ...],
    force: bool,
    output: str,
) -> int:
    """Do one real fault to a running deployable, wait until all of it runs again, and report.

    The times are counted from when the fault was asked for, and compared with the median of the earlier drills of the same
    fault on the same part. It refuses where it could do harm: while something does not run, is paused or is being changed,
    and where the failure would be the one that escalates. Each --probe is a page that is asked for ten times a second:
    it has to answer before the drill and at its end. What it did is in `pcloud events` and `pcloud explain`.
    """
    report = session.client.drill(
        name, fault, assembly=assembly, resource=resource, budget=budget, force=force, probes=probes
    )
    if output != "table":
        out.document(report, output)
    else:
        for line in _lines(report):
            click.echo(line)
    return Exit.OK if report["passed"] else Exit.FAILED


_NOTHING = "no request, all {asked} were answered"


def _lines(report: dict[str, Any]) -> list[str]:
    before = report.get("previous")
    lines = [
        f"{report['fault']} {report['subject'] or report['deployable']}: {report['done']}",
        f"detected   {_seconds(report['detected_s'])}  {report['noticed']}".rstrip(),
        f"recovered  {_seconds(report['recovered_s'])}  (budget {report['budget_s']:g} s)",
        f"started    {', '.join(report['restarted']) or 'nothing'}",
    ]
    for probe in report.get("probes", ()):
        gone = f"{probe['unanswered_s']:.3f} s without an answer, {probe['failed']} of {probe['asked']} requests failed"
        lost = gone if probe["failed"] else _NOTHING.format(**probe)
        # The reports of an older daemon's drills do not hold it.
        slowest = f", the slowest after {probe['slowest_s']:.3f} s" if "slowest_s" in probe else ""
        end = "" if probe["answers"] else f"; it does not answer yet: {probe['error']}"
        lines.append(f"lost       {clean(probe['url'])}: {lost}{slowest}{clean(end)}")
    if before:
        lines.append(
            f"before     detected {before['detected_s']:.3f} s, recovered {before['recovered_s']:.3f} s "
            f"(median of {before['count']})"
            + ("; this time it took more than twice as long" if report["slower"] else "")
        )
    word, colour = ("passed", "running") if report["passed"] else ("failed", "failed")
    lines.append(out.styled(f"{word}: {report['reason']}", colour))
    return lines


def _seconds(value: float | None) -> str:
    return f"{value:.3f} s" if value is not None else "never"


@click.command(
    cls=Command,
    short_help="Show the reports of earlier drills.",
    examples=[("pcloud drills shop", "newest first"), ("pcloud drills shop -o json", "for programs")],
)
@click.argument("name", type=DEPLOYABLE)
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many.")
@output_option
@pass_session
def drills(session: Session, name: str, limit: int, output: str) -> None:
    """Show the reports of the drills of a deployable, newest first, as far back as its events are kept."""
    found = session.client.drills(name, limit=limit)
    if output != "table":
        out.document(found, output)
        return
    now = time.time()
    rows = (
        (
            clock(one["time"], now=now),
            one["fault"],
            one["subject"],
            "passed" if one["passed"] else "failed",
            _seconds(one["detected_s"]),
            _seconds(one["recovered_s"]),
            one["reason"],
        )
        for one in found
    )
    out.table(
        ("TIME", "FAULT", "SUBJECT", "RESULT", "DETECTED", "RECOVERED", "REASON"), rows, empty="nothing was drilled"
    )
