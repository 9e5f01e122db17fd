"""Commands of stacks: `pcloud stack …` and `pcloud access-key …`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from pcloud.shell import output as out
from pcloud.shell.framework import Command, Session, output_option, pass_session

POLL = 0.3
"""Seconds between two looks while `--wait` waits."""


@click.group()
def stack() -> None:
    """Create, plan, update and delete stacks from CloudFormation and Heat templates."""


@click.group(name="access-key")
def access_key() -> None:
    """Make and remove keys for the CloudFormation endpoint."""


def _source(
    template: Path, parameters: tuple[str, ...], environment: Path | None, files: tuple[Path, ...]
) -> dict[str, Any]:
    given: dict[str, str] = {}
    for item in parameters:
        name, equals, value = item.partition("=")
        if not equals:
            raise click.UsageError(f"a parameter is NAME=VALUE, not '{item}'")
        given[name] = value
    try:
        return {
            "template": template.read_text(encoding="utf-8"),
            "parameters": given,
            "environment": environment.read_text(encoding="utf-8") if environment else "",
            "files": {str(path): path.read_text(encoding="utf-8") for path in files},
        }
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"a file can not be read: {error}") from None


def _template_options(command: Any) -> Any:
    for decorate in (
        click.option(
            "-t",
            "--template",
            type=click.Path(path_type=Path, dir_okay=False),
            required=True,
            help="The template file.",
        ),
        click.option(
            "-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter's value."
        ),
        click.option(
            "-e", "--environment", type=click.Path(path_type=Path, dir_okay=False), help="A Heat environment file."
        ),
        click.option(
            "-f",
            "--file",
            "files",
            multiple=True,
            type=click.Path(path_type=Path, dir_okay=False),
            help="A file the template uses.",
        ),
    ):
        command = decorate(command)
    return command


def _wait(session: Session, name: str) -> None:
    """Wait until nothing is under way; exit code 1 when it did not end well."""
    path = f"/v1/stacks/{quote(name, safe='')}"
    while True:
        view = session.client.connection.call("GET", path, dict)
        status = view["StackStatus"]
        if not status.endswith("_IN_PROGRESS"):
            click.echo(
                f"{name}: {status}" + (f": {view['StackStatusReason']}" if view.get("StackStatusReason") else "")
            )
            if "ROLLBACK" in status or status.endswith("FAILED"):
                raise SystemExit(1)
            return
        time.sleep(POLL)


@stack.command(
    cls=Command, short_help="Create a stack.", examples=[("pcloud stack create blog -t blog.yaml --wait", "and wait")]
)
@click.argument("name")
@_template_options
@click.option("--wait", is_flag=True, help="Return when it is made (exit code 0) or can not be (1).")
@click.option(
    "--on-failure", type=click.Choice(["ROLLBACK", "DELETE", "DO_NOTHING"]), default="ROLLBACK", show_default=True
)
@pass_session
def create(session: Session, /, name: str, wait: bool, on_failure: str, **source: Any) -> None:
    """Create the stack NAME from a template."""
    session.client.connection.call(
        "POST", "/v1/stacks", dict, body={"name": name, "on_failure": on_failure, **_source(**source)}
    )
    if wait:
        _wait(session, name)


@stack.command(
    cls=Command,
    short_help="Update a stack.",
    examples=[("pcloud stack update blog -t blog.yaml", "to the new template")],
)
@click.argument("name")
@_template_options
@click.option("--wait", is_flag=True, help="Return when it is done (exit code 0) or was undone (1).")
@pass_session
def update(session: Session, /, name: str, wait: bool, **source: Any) -> None:
    """Change the stack NAME to what a template says; only what differs is touched."""
    session.client.connection.call("PUT", f"/v1/stacks/{quote(name, safe='')}", dict, body=_source(**source))
    if wait:
        _wait(session, name)


@stack.command(
    cls=Command,
    short_help="Say what a create or update would do.",
    examples=[("pcloud stack plan blog -t blog.yaml", "as a tree")],
)
@click.argument("name")
@_template_options
@output_option
@pass_session
def plan(session: Session, /, name: str, output: str, **source: Any) -> None:
    """Say what creating or updating the stack NAME would do; nothing happens."""
    answer = session.client.connection.call("POST", "/v1/stacks/plan", dict, body={"name": name, **_source(**source)})
    if output == "table":
        click.echo(answer["tree"])
    else:
        out.document({"changes": answer["changes"], "notes": answer["notes"]}, output)


@stack.command(
    name="list", cls=Command, short_help="List stacks.", examples=[("pcloud stack list -o json", "for scripts")]
)
@output_option
@pass_session
def list_(session: Session, output: str) -> None:
    """List the stacks."""
    rows = session.client.connection.call("GET", "/v1/stacks", list)
    if output != "table":
        out.document(rows, output)
        return
    for row in rows:
        click.echo(f"{row['StackName']}  {row['StackStatus']}  {row.get('StackStatusReason') or ''}".rstrip())


@stack.command(
    cls=Command, short_help="List what happened to a stack.", examples=[("pcloud stack events blog", "oldest first")]
)
@click.argument("name")
@output_option
@pass_session
def events(session: Session, name: str, output: str) -> None:
    """List the events of the stack NAME, oldest first."""
    rows = session.client.connection.call("GET", f"/v1/stacks/{quote(name, safe='')}/events", list)
    if output != "table":
        out.document(rows, output)
        return
    for row in rows:
        when = time.strftime("%H:%M:%S", time.localtime(row["Timestamp"]))
        click.echo(
            f"{when}  {row['ResourceStatus']}  {row['LogicalResourceId']}  {row.get('ResourceStatusReason') or ''}".rstrip()
        )


@stack.command(cls=Command, short_help="Delete a stack.", examples=[("pcloud stack delete blog --wait", "and wait")])
@click.argument("name")
@click.option("--wait", is_flag=True, help="Return when it is gone.")
@pass_session
def delete(session: Session, name: str, wait: bool) -> None:
    """Delete the stack NAME and all that was made for it."""
    view = session.client.connection.call("DELETE", f"/v1/stacks/{quote(name, safe='')}", dict)
    if wait:
        _wait(session, view["StackId"].rsplit("/", 1)[-1])


@access_key.command(
    name="create",
    cls=Command,
    short_help="Make an access key.",
    examples=[("pcloud access-key create -o json", "for aws")],
)
@output_option
@pass_session
def create_key(session: Session, output: str) -> None:
    """Make an access key for the CloudFormation endpoint; its secret is shown this once."""
    key = session.client.connection.call("POST", "/v1/access-keys", dict)
    if output != "table":
        out.document(key, output)
        return
    click.echo(f"access key id: {key['access_key_id']}\nsecret access key: {key['secret_access_key']}")


@access_key.command(
    name="list", cls=Command, short_help="List access keys.", examples=[("pcloud access-key list", "without secrets")]
)
@output_option
@pass_session
def list_keys(session: Session, output: str) -> None:
    """List the access keys, without their secrets."""
    rows = session.client.connection.call("GET", "/v1/access-keys", list)
    if output != "table":
        out.document(rows, output)
        return
    for row in rows:
        click.echo(f"{row['access_key_id']}  {row['user']}")


@access_key.command(
    name="delete",
    cls=Command,
    short_help="Remove an access key.",
    examples=[("pcloud access-key delete PCABC", "at once")],
)
@click.argument("key")
@pass_session
def delete_key(session: Session, key: str) -> None:
    """Remove an access key."""
    session.client.connection.call("DELETE", f"/v1/access-keys/{quote(key, safe='')}", dict)
