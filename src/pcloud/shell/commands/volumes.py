"""Commands about volumes and their snapshots: `pcloud volume …` and `pcloud snapshot …`."""

from __future__ import annotations

import time

import click

from pcloud.shell import output as out
from pcloud.shell.framework import Command, Group, Session, output_option, pass_session
from pcloud.shell.text import clock, size


@click.group(cls=Group, name="volume")
def volume() -> None:
    """Disks of stacks' guests, those that outlived their stacks too."""


@volume.command(
    name="list", cls=Command, short_help="List volumes.", examples=[("pcloud volume list", "whose they are")]
)
@output_option
@pass_session
def list_(session: Session, output: str) -> None:
    """List the volumes: their size and what they take of it, the guest that has each, the stack that each belongs to."""
    found = session.client.stacks.volumes()
    rows = ((one["volume"], size(one["size"]), size(one["taken"]), one["holder"], one["stack"]) for one in found)
    heads = ("VOLUME", "SIZE", "TAKEN", "GUEST", "STACK")
    out.shown(found, output, lambda: out.table(heads, rows, empty="there are no volumes"))


@volume.command(
    name="delete",
    cls=Command,
    short_help="Remove a volume.",
    examples=[("pcloud volume delete vol-abc", "one that a stack left behind")],
)
@click.argument("volume")
@pass_session
def delete(session: Session, volume: str) -> None:
    """Remove a volume that no stack and no guest has, with what is in it."""
    session.client.stacks.delete_volume(volume)
    out.done(f"{volume}: deleted")


@click.group(cls=Group, name="snapshot")
def snapshot() -> None:
    """Copies of volumes that were made when they were deleted."""


@snapshot.command(
    name="list", cls=Command, short_help="List snapshots.", examples=[("pcloud snapshot list", "and what they take")]
)
@output_option
@pass_session
def list_snapshots(session: Session, output: str) -> None:
    """List the snapshots of volumes: their size and what they take of it, what they are of, for whom they were made."""
    found, now = session.client.stacks.snapshots(), time.time()
    rows = (
        (
            one["snapshot"],
            size(one["size"]),
            size(one["taken"]),
            one["volume"],
            one["note"],
            clock(one["created"], now=now),
        )
        for one in found
    )
    heads = ("SNAPSHOT", "SIZE", "TAKEN", "VOLUME", "OF", "CREATED")
    out.shown(found, output, lambda: out.table(heads, rows, empty="there are no snapshots"))


@snapshot.command(
    name="delete",
    cls=Command,
    short_help="Remove a snapshot.",
    examples=[("pcloud snapshot delete snap-abc", "volumes made from it stay")],
)
@click.argument("snapshot")
@pass_session
def delete_snapshot(session: Session, snapshot: str) -> None:
    """Remove a snapshot; volumes that were made from it stay as they are."""
    session.client.stacks.delete_snapshot(snapshot)
    out.done(f"{snapshot}: deleted")
