"""Pacemaker's scheduler through its command line, `crm_simulate`.

The fallback where the binding is not built: a hundred times slower a decision, but a stable interface; and the way to
the scores behind a placement, which only explanations need. Concurrency: any number of callers, a few processes at once.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lxml import etree

from pcloud.environment.scheduler import SchedulerCrash, SchedulerError
from pcloud.scheduler.client import environment
from pcloud.scheduler.worker import MAX_INPUT


class Score(NamedTuple):
    """How much the scheduler wanted a resource on a node."""

    resource: str
    node: str
    score: int
    """-1000000 is never, 1000000 is always (Pacemaker's INFINITY)."""


class CrmSimulateScheduler:
    """`crm_simulate`, one process a decision (a `pcloud.environment.scheduler.Scheduler`)."""

    name = "crm_simulate"

    def __init__(self, *, timeout: float = 60.0, parallel: int | None = None) -> None:
        """`timeout`: seconds one run may take. `parallel`: runs at once; default one a core."""
        self._timeout = timeout
        self._slots = asyncio.Semaphore(parallel or os.cpu_count() or 1)

    async def schedule(self, cib: bytes) -> bytes:
        """Return the transition graph for a CIB; see `pcloud.environment.scheduler.Scheduler`."""
        with _folder() as folder:
            graph = Path(folder, "graph.xml")
            await self._simulate(cib, folder, "-G", str(graph), "-Q")
            return await asyncio.to_thread(graph.read_bytes)

    async def scores(self, cib: bytes) -> tuple[Score, ...]:
        """Return the allocation scores that led to the placement of each resource; SchedulerError as for a decision."""
        with _folder() as folder:
            report = await self._simulate(cib, folder, "-s", "-R", "--output-as=xml")
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        found = etree.fromstring(report, parser).iter("node_weight")
        return tuple(
            Score(entry.get("id", ""), entry.get("node", ""), _score(entry.get("score", "0"))) for entry in found
        )

    def pardon(self, cib: bytes) -> None:
        """Nothing is ever set aside here."""

    async def close(self) -> None:
        """Nothing to end: every process ends with its decision."""

    async def _simulate(self, cib: bytes, folder: str, *options: str) -> bytes:
        """Run the program on a CIB in a folder that the caller owns; return what it printed."""
        if len(cib) > MAX_INPUT:
            raise SchedulerError(f"a CIB of {len(cib)} bytes is over the limit of {MAX_INPUT}")
        if b"<!DOCTYPE" in cib:
            raise SchedulerError("the CIB has a document type declaration")
        if b"<configuration" not in cib:
            raise SchedulerError("the XML is not a CIB: no <cib> with a <configuration>")
        source = Path(folder, "cib.xml")
        await asyncio.to_thread(source.write_bytes, cib)
        async with self._slots:
            process = await asyncio.create_subprocess_exec(
                "crm_simulate", "-x", str(source), *options, env=environment() | {"LC_ALL": "C.UTF-8"},
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                async with asyncio.timeout(self._timeout):
                    printed, complaint = await process.communicate()
            except TimeoutError as error:
                raise SchedulerCrash(f"crm_simulate took longer than {self._timeout:g} s") from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        code = process.returncode
        if code is not None and code < 0:
            raise SchedulerCrash(f"crm_simulate was ended by signal {-code}")
        if code != 0:
            lines = complaint.decode("utf-8", "replace").strip().splitlines()
            raise SchedulerError(f"crm_simulate refused the CIB: {lines[-1] if lines else code}")
        return printed


def _score(text: str) -> int:
    return {"INFINITY": 1_000_000, "+INFINITY": 1_000_000, "-INFINITY": -1_000_000}.get(text) or int(text)


@contextmanager
def _folder() -> Iterator[str]:
    """Make a folder for one run; what the system refuses meanwhile (no space, no program, no graph) is a SchedulerError."""
    try:
        with tempfile.TemporaryDirectory(prefix="pcloud-simulate-", ignore_cleanup_errors=True) as folder:
            yield folder
    except OSError as error:
        raise SchedulerError(f"crm_simulate can not be run: {error}") from error
