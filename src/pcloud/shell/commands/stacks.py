"""Commands of stacks: `pcloud stack …`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pcloud.shell import output as out
from pcloud.shell import stack_tables
from pcloud.shell.framework import STACK, Command, Group, Session, output_option, pass_session, wait_options

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=Group)
def stack() -> None:
    """Stacks from CloudFormation and Heat templates."""


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
        click.option("-t", "--template", type=_FILE, required=True, help="The template file."),
        click.option(
            "-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter's value."
        ),
        click.option("-e", "--environment", type=_FILE, help="A Heat environment file."),
        click.option("-f", "--file", "files", multiple=True, type=_FILE, help="A file the template uses."),
    ):
        command = decorate(command)
    return command


@stack.command(
    cls=Command,
    short_help="Create a stack.",
    examples=[
        ("pcloud stack create blog -t blog.yaml --wait", "return when all of it is made"),
        ("pcloud stack create blog -t blog.yaml -p greeting=hello", "with a parameter's value"),
    ],
)
@click.argument("name")
@_template_options
@click.option(
    "--on-failure",
    type=click.Choice(["ROLLBACK", "DELETE", "DO_NOTHING"]),
    default="ROLLBACK",
    show_default=True,
    help="What becomes of a stack that can not be made.",
)
@wait_options(3600)
@pass_session
def create(
    session: Session, /, name: str, wait: bool, timeout: float, on_failure: str, **source: Any
) -> None:  # fmt: skip
    """Create the stack NAME from a template. With --wait: what happens is shown, then its outputs."""
    from pcloud.shell import stack_waiting

    made = session.client.stacks.create({"name": name, "on_failure": on_failure, **_source(**source)})
    if wait:
        stack_tables.outputs(stack_waiting.follow(session.client, made, after="", timeout=timeout))
    else:
        out.done(f"{name}: creation requested")


@stack.command(
    cls=Command,
    short_help="Update a stack.",
    examples=[("pcloud stack update blog -t blog.yaml --wait", "to the new template; what differs is touched")],
)
@click.argument("name", type=STACK)
@_template_options
@wait_options(3600)
@pass_session
def update(session: Session, /, name: str, wait: bool, timeout: float, **source: Any) -> None:
    """Change the stack NAME to what a template says; only what differs is touched. With --wait: what happens is shown."""
    from pcloud.shell import stack_waiting

    body = _source(**source)
    after = stack_waiting.newest(session.client, name) if wait else ""
    changed = session.client.stacks.update(name, body)
    if wait:
        stack_tables.outputs(stack_waiting.follow(session.client, changed, after=after, timeout=timeout))
    else:
        out.done(f"{name}: update requested")


@stack.command(
    cls=Command,
    short_help="Say what a create or update would do.",
    examples=[
        ("pcloud stack plan blog -t blog.yaml", "as a tree"),
        ("pcloud stack plan blog -t blog.yaml -o json", ""),
    ],
)
@click.argument("name", type=STACK)
@_template_options
@output_option
@pass_session
def plan(session: Session, /, name: str, output: str, **source: Any) -> None:
    """Say what creating or updating the stack NAME would do; nothing happens."""
    answer = session.client.stacks.plan({"name": name, **_source(**source)})
    if output != "table":
        out.document({"changes": answer["changes"], "notes": answer["notes"]}, output)
        return
    out.done(answer["tree"])


@stack.command(
    name="list", cls=Command, short_help="List the stacks.", examples=[("pcloud stack list -o json", "for scripts")]
)
@output_option
@pass_session
def list_(session: Session, output: str) -> None:
    """List the stacks."""
    found = session.client.stacks.all()
    if output != "table":
        out.document(found, output)
        return
    stack_tables.stacks(found)


@stack.command(
    cls=Command,
    short_help="Show a stack: its resources and outputs.",
    examples=[("pcloud stack show blog", ""), ("pcloud stack show blog -o json", "with parameters, for scripts")],
)
@click.argument("name", type=STACK)
@output_option
@pass_session
def show(session: Session, name: str, output: str) -> None:
    """Show the stack NAME: its state, its resources with what they are called here, and its outputs."""
    found = session.client.stacks.get(name)
    if output != "table":
        out.document(found, output)
        return
    stack_tables.resources(found)
    stack_tables.outputs(found)


@stack.command(
    cls=Command, short_help="List what happened to a stack.", examples=[("pcloud stack events blog", "oldest first")]
)
@click.argument("name", type=STACK)
@output_option
@pass_session
def events(session: Session, name: str, output: str) -> None:
    """List the events of the stack NAME, oldest first."""
    found = session.client.stacks.events(name)
    if output != "table":
        out.document(found, output)
        return
    stack_tables.events(found)


@stack.command(
    cls=Command, short_help="Delete a stack.", examples=[("pcloud stack delete blog --wait", "return when it is gone")]
)
@click.argument("name", type=STACK)
@wait_options(3600)
@pass_session
def delete(session: Session, name: str, wait: bool, timeout: float) -> None:
    """Delete the stack NAME and all that was made for it, but for what its template says to retain."""
    from pcloud.shell import stack_waiting

    after = stack_waiting.newest(session.client, name) if wait else ""
    going = session.client.stacks.delete(name)
    if wait:
        stack_waiting.follow(session.client, going, after=after, timeout=timeout)
    else:
        out.done(f"{name}: deletion requested")
