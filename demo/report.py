"""What the demonstration prints: a timeline of each fault, why each action was taken, and the table at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from demo.faults import Fault

console = Console(highlight=False, soft_wrap=True)
MARKS = {"failed": "[red]✗[/]", "running": "[green]✓[/]", "starting": "[yellow]…[/]", "suspect": "[yellow]?[/]"}


def heading(text: str) -> None:
    """Print a step's title."""
    console.print(f"\n[bold cyan]━━ {text}[/]")


def timeline(fault: Fault) -> None:
    """Print what happened, moment by moment, and why."""
    from demo.faults import event_time

    if not fault.events:
        return
    zero = event_time(fault.events[0])
    for event in fault.events:
        subject = "/".join(part for part in (event.text("assembly"), event.text("resource")) if part) or "deployable"
        mark = MARKS.get(event.text("state"), "·")
        console.print(
            f"  {event_time(event) - zero:7.3f} s {mark} [bold]{subject}[/] {event.text('state')}: {event.text('reason')}"
        )
    for decision in fault.decisions:
        for rule in decision["rules"]:
            console.print(f"  [dim]rule {rule['rule']}: {rule['text']}[/]")
        for action in decision["actions"]:
            if action["state"] == "done" and action["action"] not in ("watch", "probe"):
                what = f"{action['action']} {action['subject']}"
                console.print(f"  [dim]why [/]{what}[dim]: {action['why']} ({action['seconds']:.2f} s)[/]")
    for note in fault.notes:
        console.print(f"  [green]✓[/] {note}")
    console.print(
        f"  detected after [bold]{fault.detected_s:.3f} s[/], recovered after [bold]{fault.recovered_s:.3f} s[/]"
    )


def table(faults: list[Fault]) -> None:
    """Print the summary."""
    shown = Table(title="What was broken, and how long it took to heal")
    for column, justify in (
        ("fault", "left"),
        ("what", "left"),
        ("detected after", "right"),
        ("recovered after", "right"),
    ):
        shown.add_column(column, justify=justify)  # type: ignore[arg-type]
    for fault in faults:
        shown.add_row(fault.name, fault.title, f"{fault.detected_s:.3f} s", f"{fault.recovered_s:.3f} s")
    console.print()
    console.print(shown)
