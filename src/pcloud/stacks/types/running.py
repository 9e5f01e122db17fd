"""Runs a script in a guest once, whatever dies meanwhile: it is started detached, and its result is kept in the guest.

A run has a folder of its own in the guest, named by an id that stays the same over crashes of ours. A result that is there
already is taken; a run under way is waited for; one that ended without a result (the guest was restarted) is begun again, as
Heat's own agent does. No command line holds a text of the template: scripts and values go through standard input.
"""

from __future__ import annotations

import asyncio
import io
import re
import tarfile
from collections.abc import Mapping, Sequence

import msgspec

from pcloud.model.errors import PcloudError
from pcloud.stacks.types.base import ResourceFailed, Services

FOLDER = "/var/lib/pcloud-deployments"
MAX_INPUTS = 100_000
"""Bytes of all inputs together."""
MAX_OUTPUT = 65_536
"""Bytes kept of each output."""
RUNNING = 75
"""Exit code of a look at a run that has no result yet."""
_AWAY_SECONDS = 1.0

_PUT = (
    'umask 077 && mkdir -p "$1" && cd "$1" && { [ -e ready ] || '
    "{ rm -rf new && mkdir new && tar -xf - -C new && mv new/run new/env new/config . && : >ready ; } ; }"
)
_LOOK = (
    'cd "$1" || exit 1; if [ -e status ]; then exit 0; fi; '
    "setsid -f flock -n lock sh ./run >/dev/null 2>&1 </dev/null; exit 75"
)
_RUN = """#!/bin/sh
[ -e status ] && exit 0
if command -v cloud-init >/dev/null 2>&1; then cloud-init status --wait >/dev/null 2>&1 </dev/null; fi
rm -f output.*
xargs -0 -x -a env sh -c 'env "$@" "$0" >stdout 2>stderr </dev/null; echo $? >status.new; mv status.new status' ./config
"""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a script gave."""

    code: int
    stdout: str
    stderr: str
    outputs: dict[str, str]


async def run_script(
    services: Services,
    place: tuple[str, str],
    identity: str,
    script: str,
    inputs: Mapping[str, str],
    outputs: Sequence[str],
    *,
    deadline: float,
) -> Result:
    """Run a script in a guest and return what it gave; ResourceFailed when there is no result by the deadline."""
    folder = f"{FOLDER}/{identity}"
    package = _package(script, {**inputs, "heat_outputs_path": f"{folder}/output"})
    put = False
    trouble = "it did not end in time"
    while services.now() < deadline:
        try:
            if not put:
                await _call(services, place, ["sh", "-c", _PUT, "sh", folder], package)
                put = True
            looked = await services.platform.execute(*place, ["sh", "-c", _LOOK, "sh", folder], timeout=30)
            if looked.returncode == 0:
                return await _fetch(services, place, folder, outputs)
            if looked.returncode != RUNNING:
                put = False  # the guest was made anew
        except PcloudError as problem:  # the guest is being started, or the engine is: it is tried again
            trouble = problem.problems[0].message if problem.problems else str(problem)
            put = False
        await asyncio.sleep(_AWAY_SECONDS)
    raise ResourceFailed(f"the script gave no result: {trouble}")


async def _call(services: Services, place: tuple[str, str], argv: Sequence[str], stdin: bytes = b"") -> bytes:
    done = await services.platform.execute(*place, argv, stdin=stdin, timeout=60)
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()[-300:]
        raise ResourceFailed(f"the guest could not take the script: {words or f'exit code {done.returncode}'}")
    return done.stdout


async def _fetch(services: Services, place: tuple[str, str], folder: str, outputs: Sequence[str]) -> Result:
    async def read(name: str) -> str:
        done = await services.platform.execute(*place, ["tail", "-c", str(MAX_OUTPUT), f"{folder}/{name}"], timeout=30)
        return done.stdout.decode(errors="replace") if done.returncode == 0 else ""

    status = (await read("status")).strip()
    found = {name: (await read(f"output.{name}")).rstrip("\n") for name in outputs}
    return Result(
        code=int(status) if status.isdigit() else 1,
        stdout=await read("stdout"),
        stderr=await read("stderr"),
        outputs=found,
    )


def _package(script: str, values: Mapping[str, str]) -> bytes:
    lines = []
    for name, value in values.items():
        if not name or "=" in name or "\0" in name + value or name.startswith("-"):
            raise ResourceFailed(
                f"the input '{name[:60]}' can not be given to a script: no '=' in names, no NUL in values"
            )
        lines.append(f"{name}={value}".encode() + b"\0")
    if sum(map(len, lines)) > MAX_INPUTS:
        raise ResourceFailed(f"the inputs are longer than {MAX_INPUTS} bytes")
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w") as tar:
        for name, body, mode in (
            ("run", _RUN.encode(), 0o700),
            ("env", b"".join(lines), 0o600),
            ("config", script.encode(), 0o700),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(body), mode
            tar.addfile(entry, io.BytesIO(body))
    return result.getvalue()


def safe_name(name: str) -> bool:
    """Whether an output's name may be part of a file's name."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name) is not None
