"""Pictures of states for a terminal, in rich: the tree of a deployable and the bar of a job. Pure."""

from __future__ import annotations

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pcloud.client.records import Job
from pcloud.model.status import DeployableStatus
from pcloud.shell.text import STATE_COLOURS, clean, state_colour

SIGNS = {
    "running": "●",
    "starting": "◌",
    "failed": "✗",
    "unrecoverable": "✗",
    "blocked": "⊘",
    "suspect": "?",
    "stopped": "○",
    "paused": "‖",
    "unknown": "?",
}


def state_text(name: str, state: str, reason: str = "", extra: str = "") -> Text:
    """A name with its state in colour."""
    colour = state_colour(state)
    text = Text.assemble((SIGNS.get(state, "·") + " ", colour), (clean(name), "bold"), "  ", (clean(state), colour))
    if extra:
        text.append("  " + clean(extra), "bright_black")
    if reason and state not in {"running", "stopped"}:
        text.append("  " + clean(reason), "bright_black")
    return text


def tree(status: DeployableStatus) -> Tree:
    """A deployable with its assemblies and resources."""
    root = Tree(state_text(status.name, status.state, status.reason), guide_style="bright_black")
    for assembly in status.assemblies:
        branch = root.add(state_text(assembly.name, assembly.state, assembly.reason, assembly.address))
        for resource in assembly.resources:
            branch.add(state_text(resource.name, resource.state, resource.reason))
    return root


def bar(job: Job) -> RenderableType:
    """A job with its progress."""
    grid = Table.grid(padding=(0, 1))
    colour = STATE_COLOURS.get(job.state, "cyan") if job.state != "running" else "cyan"
    grid.add_row(
        Text(clean(f"{job.kind} {job.subject}".strip()), style="bold"),
        ProgressBar(total=1.0, completed=1.0 if job.state == "done" else job.progress, width=30, complete_style=colour),
        Text(f"{job.progress * 100:3.0f} %" if job.state == "running" else job.state, style=colour),
        Text(clean(job.message), style="bright_black", no_wrap=True, overflow="ellipsis"),
    )
    return grid
