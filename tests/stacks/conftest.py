"""A manager of stacks over a store of the test's own, and what else several files are given. A file whose guests or networks
matter has a `platform` of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import NoPlatform, Platform
from pcloud.stacks.types import registry
from tests.stacks import moto as moto_server
from tests.stacks.lifecycle import opened
from tests.stacks.objects import Swift, running
from tests.stacks.scaling_groups import NotedInstance


@pytest.fixture
def platform() -> Platform:
    """None: stacks of values only."""
    return NoPlatform()


@pytest.fixture
async def manager(tmp_path: Path, platform: Platform) -> AsyncIterator[StackManager]:
    """Open, over a store in the test's folder."""
    manager = await opened(tmp_path, platform)
    yield manager
    await manager.close()


@pytest.fixture
def instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of scaling groups are only noted."""
    known = {**registry.types(), "AWS::EC2::Instance": NotedInstance()}
    monkeypatch.setattr(registry, "types", lambda: known)


@pytest.fixture(scope="module")
def swift() -> Iterator[Swift]:
    """The running peer; its daemons end with the file's last test."""
    with running() as peer:
        yield peer


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of moto's S3."""
    with moto_server.running(tmp_path_factory.mktemp("moto") / "log") as url:
        yield url
