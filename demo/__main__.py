"""`make demo`: the main job on this machine, from building an image to healing. Ends by itself and leaves nothing behind.

KEEP=1 leaves it running and says how to look. The last line is one JSON object; the exit status is 0 only if every step
happened.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable

from demo.faults import Fault, Play
from demo.report import console, heading, table, timeline
from demo.stage import HOME, NAME, Stage, StageError
from pcloud.model.errors import PcloudError


def perform(stage: Stage, faults: list[Fault]) -> None:
    """Play every step in order; StageError or PcloudError when one does not happen."""
    if stage.infrastructure == "openstack":
        from demo import servers

        stage.servers_only = servers.look()
    heading("1 · The daemon, the image, the two guests, in order")
    stage.prepare()
    stage.pcloud("up", "--detach")
    began = time.time()
    stage.pcloud("apply", "-f", str(stage.manifest), "--wait", "--timeout", "20m")
    console.print(f"\nall of it runs after {time.time() - began:.1f} s")
    stage.pcloud("status", NAME)
    if stage.servers_only:
        perform_on_servers(stage, faults)
        return
    play = Play(stage)
    heading("2 · A page that could only come from a working database")
    play.write_title()
    play._healthy()
    console.print(f"  [green]✓[/] http://{play.address('wordpress')}/ shows “{play.title}”")
    hung = (play.guest_hung,) if stage.infrastructure == "libvirt" else ()  # a machine can stop and still be there
    steps = (play.service_killed, play.guest_killed, *hung, play.escalation, play.engine_killed, play.daemon_killed)
    play_all(steps, faults, 3)
    heading("Why: the engine's own words on the last recovery of the database")
    stage.pcloud("explain", f"{NAME}/mysql/mysqld")


def perform_on_servers(stage: Stage, faults: list[Fault]) -> None:
    """Play what can be played where nothing runs inside the servers."""
    from demo.servers import ServersPlay

    play = ServersPlay(stage)
    play_all((play.guest_killed, play.guest_broken, play.engine_killed, play.daemon_killed), faults, 2)
    heading("Why: the engine's own words on the last recovery of a guest")
    stage.pcloud("explain", f"{NAME}/wordpress")


def play_all(steps: Iterable[Callable[[], Fault]], faults: list[Fault], first: int) -> None:
    """Play faults one after the other, and show what came of them."""
    for number, step in enumerate(steps, first):
        heading(f"{number} · {(step.__doc__ or '').splitlines()[0]}")
        fault = step()
        faults.append(fault)
        timeline(fault)
    table(faults)


def main() -> int:
    """Run the demonstration."""
    stage = Stage(os.environ.get("INFRASTRUCTURE") or "lxc")
    faults: list[Fault] = []
    problem = ""
    if os.geteuid():
        problem = "guests are made by root: run `sudo make demo`"
    else:
        try:
            perform(stage, faults)
        except (StageError, PcloudError) as error:
            problem = str(error)
        except KeyboardInterrupt:
            problem = "interrupted"
    if problem:
        console.print(f"\n[bold red]{problem}[/]")
    keep = os.environ.get("KEEP", "") not in ("", "0")
    if keep and not os.geteuid():
        heading("KEEP=1: it is left running")
        console.print(f"  export PCLOUD_HOME={HOME} PCLOUD_URL={stage.environment['PCLOUD_URL']}")
        console.print(f"  .venv/bin/pcloud status {NAME}; .venv/bin/pcloudsh; the next `make demo` removes it")
    elif not os.geteuid():
        try:
            heading("The end: nothing is left behind")
            stage.remove()
        except (StageError, PcloudError) as error:
            problem = problem or str(error)
            console.print(f"[bold red]{error}[/]")
    result = {
        "ok": not problem,
        "faults": [
            {"name": f.name, "detected_s": round(f.detected_s, 3), "recovered_s": round(f.recovered_s, 3)}
            for f in faults
        ],
    }
    if problem:
        result["problem"] = problem
    sys.stdout.flush()
    print(json.dumps(result), flush=True)
    return 0 if not problem else 1


if __name__ == "__main__":
    sys.exit(main())
