"""Image jobs: a deployable whose images are missing gets a job that makes them; then it is loaded.

Concurrency: at most one job a deployable; two deployables that need the same image share its build, which is cancelled
only when nobody waits for it any longer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pcloud.cpe.jobs import Progress, Work
from pcloud.environment.infrastructure import Image
from pcloud.events.event import Severity
from pcloud.model.deployable import Assembly, Deployable, ResourceState
from pcloud.model.errors import PcloudError
from pcloud.store.rows import Job

if TYPE_CHECKING:
    from pcloud.cpe.engine import CloudPolicyEngine


class _Build:
    """One build in progress and whoever waits for it."""

    def __init__(self) -> None:
        self.listeners: set[Callable[[float, str], None]] = set()
        self.task: asyncio.Task[Image]

    def report(self, fraction: float, message: str) -> None:
        for listener in tuple(self.listeners):
            listener(fraction, message)


class Preparations:
    """The image jobs of all deployables."""

    def __init__(self, owner: CloudPolicyEngine) -> None:
        self._owner = owner
        self._jobs: dict[str, str] = {}
        self._builds: dict[str, _Build] = {}
        self._building: dict[str, str] = {}
        """Which image each deployable's job is at."""

    async def begin(self, name: str) -> None:
        """Begin a job for a deployable unless it has one, or its images failed and nothing was changed since."""
        if name in self._jobs:
            return
        row = self._owner.desired.rows.get(name)
        overlay = self._owner.desired.overlays.get(name)
        if row is None or (overlay and overlay.state is ResourceState.FAILED and overlay.revision == row.revision):
            return
        self._jobs[name] = ""
        try:
            job = await self._owner.jobs.start("deployable.images", name, self._work(name))
        except PcloudError:
            self._jobs.pop(name, None)
            raise
        if name in self._jobs:
            self._jobs[name] = job.id

    def resume(self, job: Job) -> None:
        """Go on with a job of an earlier daemon."""
        self._jobs[job.subject] = job.id
        self._owner.jobs.resume(job, self._work(job.subject))

    async def stop(self, name: str) -> None:
        """Cancel a deployable's job."""
        identifier = self._jobs.get(name)
        if identifier:
            with contextlib.suppress(PcloudError):  # it ended by itself meanwhile
                await self._owner.jobs.cancel(identifier)

    async def overtaken(self, name: str, deployable: Deployable) -> None:
        """Cancel a deployable's job when what it builds at present is not needed by the definition that came meanwhile."""
        building = self._building.get(name)
        if building is not None and building not in {self._owner.images.key(one) for one in deployable.assemblies}:
            await self.stop(name)

    def _work(self, name: str) -> Work:
        async def work(progress: Progress) -> None:
            try:
                await self._make(name, progress)
            finally:
                self._jobs.pop(name, None)
                self._building.pop(name, None)

        return work

    async def _make(self, name: str, progress: Progress) -> None:
        owner = self._owner
        revision = self._revision(name)
        try:
            definition = await owner.definition(name)
            missing = {owner.images.key(one): one for one in definition.deployable.assemblies}
            needed = [(key, one) for key, one in missing.items() if owner.images.ready(one) is None]
            for number, (key, assembly) in enumerate(needed):

                def report(fraction: float, message: str, number: int = number, image: str = assembly.image) -> None:
                    progress((number + min(max(fraction, 0.0), 1.0)) / len(needed), message)
                    text = f"building image {image} ({fraction:.0%})".replace("%", " %")
                    owner.desired.overlay(name, ResourceState.STARTING, text, change="building")

                self._building[name] = key
                report(0.0, f"building the image of {assembly.name}")
                await self._shared(key, assembly, report)
        except PcloudError as error:
            if self._revision(name) not in (revision, None):
                # Something else is wanted by now: what failed was the build of the old definition.
                await self._make(name, progress)
                return
            self._failed(name, f"its image could not be built: {error.problems[0].message}")
            raise
        except asyncio.CancelledError:
            self._failed(name, "the build of its image was cancelled", event=False)
            raise
        except Exception as error:
            self._failed(name, f"its image could not be built: {type(error).__name__}: {error}")
            raise
        owner.desired.clear(name)
        progress(1.0, "every image is there")
        self._jobs.pop(name, None)
        owner.reconciler.mark(name)

    def _revision(self, name: str) -> int | None:
        """Return the revision of what a deployable shall be; None when it is gone."""
        row = self._owner.desired.rows.get(name)
        return row.revision if row is not None else None

    def _failed(self, name: str, reason: str, *, event: bool = True) -> None:
        self._owner.desired.overlay(name, ResourceState.FAILED, reason, change="failed")
        if event:
            self._owner.emit("deployable.state", reason, deployable=name, severity=Severity.CRITICAL)

    async def _shared(self, key: str, assembly: Assembly, report: Callable[[float, str], None]) -> Image:
        build = self._builds.get(key)
        if build is None:
            build = _Build()
            build.task = asyncio.create_task(self._owner.images.build(assembly, build.report), name=f"image-{key}")
            self._builds[key] = build
            build.task.add_done_callback(lambda _: self._builds.pop(key, None))
        build.listeners.add(report)
        try:
            return await asyncio.shield(build.task)
        finally:
            build.listeners.discard(report)
            if not build.listeners and not build.task.done():
                build.task.cancel()
                await asyncio.wait({build.task})
