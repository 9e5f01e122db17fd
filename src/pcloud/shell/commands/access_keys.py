"""Commands about the keys of the CloudFormation endpoint: `pcloud access-key …`."""

from __future__ import annotations

import time

import click

from pcloud.shell import output as out
from pcloud.shell.framework import Command, Group, Session, output_option, pass_session
from pcloud.shell.text import clock


@click.group(cls=Group, name="access-key")
def access_key() -> None:
    """Keys for the CloudFormation endpoint."""


@access_key.command(
    name="create",
    cls=Command,
    short_help="Make an access key.",
    examples=[("pcloud access-key create -o json", "for aws")],
)
@output_option
@pass_session
def create(session: Session, output: str) -> None:
    """Make an access key for the CloudFormation endpoint; its secret is shown this once."""
    key = session.client.stacks.make_key()
    if output != "table":
        out.document(key, output)
        return
    out.table(
        ("ACCESS KEY ID", "SECRET ACCESS KEY"), [(key["access_key_id"], key["secret_access_key"])], empty="no key"
    )


@access_key.command(
    name="list", cls=Command, short_help="List access keys.", examples=[("pcloud access-key list", "without secrets")]
)
@output_option
@pass_session
def list_(session: Session, output: str) -> None:
    """List the access keys, without their secrets."""
    found = session.client.stacks.keys()
    if output != "table":
        out.document(found, output)
        return
    now = time.time()
    rows = ((key["access_key_id"], key["user"], key["stack"], clock(key["created"], now=now)) for key in found)
    out.table(("ACCESS KEY ID", "USER", "STACK", "CREATED"), rows, empty="there are no access keys")


@access_key.command(
    name="delete",
    cls=Command,
    short_help="Remove an access key.",
    examples=[("pcloud access-key delete PCABC", "at once")],
)
@click.argument("key")
@pass_session
def delete(session: Session, key: str) -> None:
    """Remove an access key."""
    session.client.stacks.delete_key(key)
    out.done(f"{key}: deleted")
