"""`pcloud`: the command line. Puts the commands together and turns every error into a message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from pcloud.shell import drill_command, simulate_command
from pcloud.shell.commands import access_keys, daemon, deployables, history, library, stacks, volumes
from pcloud.shell.exits import Exit, exit_code
from pcloud.shell.framework import Command, Group, Session
from pcloud.shell.output import note, report

if TYPE_CHECKING:
    from pcloud.model.errors import PcloudError


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--url", metavar="URL", help="Where the daemon answers. [$PCLOUD_URL, else http://127.0.0.1:8780]")
@click.option(
    "--token-file",
    metavar="FILE",
    help="The file that holds the access token. [$PCLOUD_TOKEN, else $PCLOUD_HOME/token]",
)
@click.version_option(package_name="pacemaker-cloud", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, url: str | None, token_file: str | None) -> None:
    """Keep applications that are made of guests running, and say why.

    A deployable is a set of assemblies (guests) with their resources (services) and the order between them. Write it down
    as a manifest, then: pcloud apply -f FILE --wait
    """
    session = Session(url=url, token_file=token_file)
    context.obj = session
    context.call_on_close(session.close)


cli.add("The daemon", daemon.up, daemon.down, daemon.doctor, daemon.version)
cli.add(
    "Deployables",
    deployables.apply,
    deployables.get,
    deployables.status,
    deployables.manifest,
    deployables.start,
    deployables.stop,
    deployables.reload,
    deployables.recover,
    deployables.pause,
    deployables.resume,
    deployables.delete,
)
cli.add("What happened, and why", history.events, history.explain, simulate_command.simulate, simulate_command.replay)
cli.add("Drills", drill_command.drill, drill_command.drills)
cli.add("What they are made from", library.image, library.assembly, library.template, library.console)
cli.add("Stacks from templates", stacks.stack, access_keys.access_key, volumes.volume, volumes.snapshot)
cli.add("Access and comfort", library.token, daemon.completion)


def main() -> int:
    """Run one command line and return its exit code."""
    return run(cli, "pcloud")


def run(command: click.Command, program: str) -> int:
    """Run a click command; every way it can end becomes an exit code of `pcloud.shell.exits`."""
    try:
        result = command.main(prog_name=program, standalone_mode=False)
        # Output is flushed here, where a reader that has gone away can still be handled.
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        note("interrupted; what was asked for goes on in the daemon")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, say) has enough. Nothing may be written any more, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except _error_type() as error:
        report(program, error)
        return exit_code(error)
    return result if isinstance(result, int) else Exit.OK


def _error_type() -> type[PcloudError]:
    """Evaluated only while an exception is on its way: importing the error tree takes longer than `--help`."""
    from pcloud.model.errors import PcloudError

    return PcloudError


__all__ = ["Command", "cli", "main", "run"]
