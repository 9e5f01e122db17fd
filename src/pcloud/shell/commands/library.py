"""Commands about what deployables are made from: images, assemblies, templates; and about access: tokens."""

from __future__ import annotations

import os
import select
import stat
import sys
from pathlib import Path

import click

from pcloud.shell import listing
from pcloud.shell import output as out
from pcloud.shell.framework import (
    ARCH,
    ASSEMBLY,
    GUEST,
    JEOS,
    TOKEN,
    Command,
    Group,
    Seconds,
    Session,
    output_option,
    pass_session,
    split_part,
    wait_options,
)
from pcloud.shell.text import clean

MAX_INPUT = 8 * 1024 * 1024
"""Bytes of standard input that are sent to a command in a guest."""
PIPE_PATIENCE = 1.0


@click.group(cls=Group)
def image() -> None:
    """Images (JEOS) that guests are made from."""


@image.command(name="list", examples=[("pcloud image list", "what is built and what can be")])
@output_option
@pass_session
def image_list(session: Session, output: str) -> None:
    """List the images that are built or can be."""
    found = session.client.jeos()
    out.shown(found, output, lambda: listing.images(found))


@image.command(
    name="build",
    examples=[("pcloud image build bookworm", ""), ("pcloud image build bookworm --no-wait", "go on at once")],
)
@click.argument("name", type=JEOS)
@click.argument("arch", default="x86_64", type=ARCH)
@wait_options(3600, waits=True)
@pass_session
def image_build(session: Session, name: str, arch: str, wait: bool, timeout: float) -> None:
    """Build an image. Quick when it is there already; Ctrl-C ends the wait, the build goes on."""
    from pcloud.shell import wait as waiting

    job = session.client.create_jeos(name, arch)
    if not wait:
        out.done(f"{name} {arch}: build requested" + (f" (job {job})" if job else ""))
        return
    with waiting.view() as show:
        waiting.for_job(session.client, job, timeout=timeout, show=show)
    out.done(f"{name} {arch}: ready")


@image.command(
    name="import",
    examples=[
        ("pcloud image import debian-12.qcow2 --name deb12 --digest sha512:… --like bookworm", ""),
        ("pcloud image import disk.qcow2 --name appliance --digest sha256:…", "without resource templates"),
    ],
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="What `image:` of an assembly calls it.")
@click.option("--digest", required=True, help="`sha256:` or `sha512:` and what the image's maker publishes.")
@click.option("--like", default="", help="The distribution in it, such as `bookworm`: resource templates then apply.")
@click.option("--arch", default="x86_64", help="Architecture of the image.")
@pass_session
def image_import(session: Session, file: Path, name: str, digest: str, like: str, arch: str) -> None:
    """Import a disk image made by others, when its digest is right.

    The image (qcow2 or raw) is for machines (`libvirt`, `openstack`), is used as it is, and gets its identity by cloud-init.
    Assemblies made from it say `transport: ssh`.
    """
    try:
        with file.open("rb") as content:
            found = os.fstat(content.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise click.UsageError(f"{clean(str(file))} is not a file")
            with out.sending(content, found.st_size, f"sending {clean(name)}") as source:
                made = session.client.import_image(
                    name, arch, digest=digest, like=like, file=source, size=found.st_size
                )
    except OSError as error:
        raise click.UsageError(f"{clean(str(file))} can not be read: {error.strerror}") from error
    out.done(f"{made.name} {made.arch}: ready")


@image.command(name="delete", examples=[("pcloud image delete bookworm", "")])
@click.argument("name", type=JEOS)
@click.argument("arch", default="x86_64", type=ARCH)
@pass_session
def image_delete(session: Session, name: str, arch: str) -> None:
    """Delete an image that no assembly uses."""
    session.client.delete_jeos(name, arch)
    out.done(f"{name} {arch}: deleted")


@click.group(cls=Group)
def assembly() -> None:
    """The library of assemblies, and guests."""


@assembly.command(name="list", examples=[("pcloud assembly list", "")])
@output_option
@pass_session
def assembly_list(session: Session, output: str) -> None:
    """List the assemblies of the library."""
    found = session.client.assemblies()
    out.shown(found, output, lambda: listing.assemblies(found))


@assembly.command(name="create", examples=[("pcloud assembly create web bookworm", "")])
@click.argument("name")
@click.argument("image", type=JEOS)
@click.argument("arch", default="x86_64", type=ARCH)
@wait_options(3600, waits=True)
@pass_session
def assembly_create(session: Session, name: str, image: str, arch: str, wait: bool, timeout: float) -> None:
    """Make an assembly in the library from an image."""
    _follow_job(session, session.client.create_assembly(name, image, arch), wait, timeout)
    out.done(f"{name}: created")


@assembly.command(name="clone", examples=[("pcloud assembly clone web web2", "")])
@click.argument("name", type=ASSEMBLY)
@click.argument("to")
@wait_options(3600, waits=True)
@pass_session
def assembly_clone(session: Session, name: str, to: str, wait: bool, timeout: float) -> None:
    """Make another assembly like one, with an identity of its own."""
    _follow_job(session, session.client.clone_assembly(name, to), wait, timeout)
    out.done(f"{to}: created")


@assembly.command(name="delete", examples=[("pcloud assembly delete web2", "")])
@click.argument("name", type=ASSEMBLY)
@pass_session
def assembly_delete(session: Session, name: str) -> None:
    """Delete an assembly that is in no deployable."""
    session.client.delete_assembly(name)
    out.done(f"{name}: deleted")


@assembly.command(
    name="exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    examples=[
        ("pcloud assembly exec shop/db -- systemctl status mariadb", ""),
        ("pcloud assembly exec shop/db -- mysql < backup.sql", "standard input goes to the command"),
        ("pcloud assembly exec shop/web -- sh -c 'ls /etc | wc -l'", "a shell, where one is wanted"),
    ],
)
@click.argument("guest", metavar="DEPLOYABLE/ASSEMBLY", type=GUEST)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "-i", "--stdin", "whole", is_flag=True, help="Wait for all of standard input, however long it takes to come."
)
@click.option("-n", "--no-stdin", is_flag=True, help="Give the command no input.")
@click.option(
    "--timeout", type=Seconds(), default="60s", show_default=True, metavar="TIME", help="How long it may run."
)
@pass_session
def assembly_exec(
    session: Session, guest: str, command: tuple[str, ...], whole: bool, no_stdin: bool, timeout: float
) -> None:
    """Run a command in a guest; its output and exit code become ours.

    The words are passed as they are, without a shell. Standard input is sent along when it is a file or a pipe that has
    something to say within a second (-i waits for it, -n sends none).
    """
    deployable, name, _ = split_part(guest, parts=(2, 2))
    # Options end at the guest's name, so that the -- after it is left to us; a second one is the command's.
    command = command[1:] if command[0] == "--" else command
    if not command:
        raise click.UsageError("a command is missing after --")
    given = b"" if no_stdin else _input(whole=whole)
    reply = session.client.execute(deployable, name, command, stdin=given, timeout=timeout)
    sys.stdout.buffer.write(reply.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(reply.stderr)
    sys.stderr.buffer.flush()
    click.get_current_context().exit(reply.returncode if 0 <= reply.returncode <= 255 else 1)


def _input(*, whole: bool) -> bytes:
    """Read standard input: all of it, or nothing when it is a terminal or closed. A pipe that stays silent for
    PIPE_PATIENCE seconds is inherited rather than meant, unless `whole`; leaving it out is told."""
    try:
        source = sys.stdin.buffer
        mode = os.fstat(source.fileno()).st_mode
    except (AttributeError, ValueError, OSError):
        return b""
    if source.isatty():
        return b""
    if (
        not whole
        and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))
        and not select.select([source], [], [], PIPE_PATIENCE)[0]
    ):
        out.note("standard input is silent and was left out; -i waits for it, -n says there is none")
        return b""
    given = source.read(MAX_INPUT + 1)
    if len(given) > MAX_INPUT:
        raise click.UsageError(f"standard input is larger than {MAX_INPUT >> 20} MiB")
    return given


@assembly.command(name="console", examples=[("pcloud assembly console shop/web", "")])
@click.argument("guest", metavar="DEPLOYABLE/ASSEMBLY", type=GUEST)
@pass_session
def assembly_console(session: Session, guest: str) -> None:
    """Print the newest part of a guest's console log."""
    _print_console(session, guest)


@click.command(cls=Command, examples=[("pcloud console shop/web", "")])
@click.argument("guest", metavar="DEPLOYABLE/ASSEMBLY", type=GUEST)
@pass_session
def console(session: Session, guest: str) -> None:
    """Print the newest part of a guest's console log.

    The same as `pcloud assembly console`.
    """
    _print_console(session, guest)


def _print_console(session: Session, guest: str) -> None:
    deployable, name, _ = split_part(guest, parts=(2, 2))
    log = session.client.console(deployable, name)
    if sys.stdout.isatty():
        click.echo(clean(log.decode(errors="replace").replace("\r\n", "\n"), lines=True))
    else:
        click.echo(log, nl=False)


@click.group(cls=Group)
def template() -> None:
    """Resource templates: services known by name."""


@template.command(name="list", examples=[("pcloud template list", "")])
@output_option
@pass_session
def template_list(session: Session, output: str) -> None:
    """List the resource templates."""
    found = session.client.templates()
    out.shown(found, output, lambda: listing.templates(found))


@click.group(cls=Group)
def token() -> None:
    """Access tokens of the API."""


@token.command(name="create", examples=[("pcloud token create grafana --role viewer", "")])
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer", show_default=True)
@output_option
@pass_session
def token_create(session: Session, name: str, role: str, output: str) -> None:
    """Make a token and print it. It is shown this once only."""
    made = session.client.create_token(name, role)
    if output != "table":
        out.document(made, output)
    else:
        out.done(made.token)


@token.command(name="list", examples=[("pcloud token list", "")])
@output_option
@pass_session
def token_list(session: Session, output: str) -> None:
    """List the tokens, without their secrets."""
    found = session.client.tokens()
    if output != "table":
        out.document([{"name": one.name, "role": one.role} for one in found], output)
        return
    out.table(("NAME", "ROLE"), ((one.name, one.role) for one in found), empty="there are no tokens")


@token.command(name="delete", examples=[("pcloud token delete grafana", "")])
@click.argument("name", type=TOKEN)
@pass_session
def token_delete(session: Session, name: str) -> None:
    """Make a token invalid, at once."""
    session.client.delete_token(name)
    out.done(f"{name}: deleted")


def _follow_job(session: Session, job: str, wait: bool, timeout: float) -> None:
    """Show a job until it is done, when there is one and the user waits."""
    if not job or not wait:
        return
    from pcloud.shell import wait as waiting

    with waiting.view() as show:
        waiting.for_job(session.client, job, timeout=timeout, show=show)
