"""The cloud policy engine in this process, over stand-in images and engine processes, and deployables to give it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pcloud.cpe.documents import ModelDocuments
from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.home import Home
from pcloud.cpe.settings import DaemonSettings
from pcloud.model.deployable import Assembly, Deployable, Resource
from pcloud.store.database import sqlite_url
from pcloud.store.store import Store
from tests.cpe.fakes import FolderImages
from tests.cpe.harness import PATIENCE


@asynccontextmanager
async def engine(tmp_path: Path, settings: DaemonSettings | None = None) -> AsyncIterator[CloudPolicyEngine]:
    """Run one over the home and the guests of a folder; what an engine before it left there is taken over."""
    guests = tmp_path / "guests"
    guests.mkdir(exist_ok=True)
    os.environ["FAKE_GUESTS"] = str(guests)
    home = Home(tmp_path / "home")
    home.prepare()
    home.lock()
    store = await Store.open(sqlite_url(home.database))
    made = CloudPolicyEngine(
        home,
        settings or DaemonSettings(),
        store,
        documents=ModelDocuments(),
        images=FolderImages(home.path / "images"),
        command=(sys.executable, str(Path(__file__).with_name("fake_engine.py"))),
    )
    try:
        await made.start()
        yield made
    finally:
        await made.close(engines=True)
        await store.close()
        home.unlock()
        del os.environ["FAKE_GUESTS"]


async def eventually(check, what: str, timeout: float = PATIENCE) -> None:  # type: ignore[no-untyped-def]
    """Return when `check` is true; fail when it does not become so."""
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def sample(name: str, **more: object) -> Deployable:
    """Three assemblies with a service each."""
    httpd = Resource(name="httpd", resource_class="systemd", type="apache2")
    assemblies = tuple(Assembly(name=one, image="bookworm", resources=(httpd,)) for one in ("a", "b", "c"))
    return Deployable(name=name, assemblies=assemblies, **more)  # type: ignore[arg-type]
