"""One daemon for the tests of this folder; each test brings what it needs into the state it needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stage import SHOP, Stage, missing


@pytest.fixture(scope="package")
def daemon() -> Iterator[Stage]:
    """A daemon of our own."""
    if lacking := missing():
        pytest.skip(lacking)
    stage = Stage("a")
    stage.open()
    try:
        yield stage
    finally:
        stage.close()


@pytest.fixture
def stage(daemon: Stage) -> Stage:
    """The daemon, running, whatever the test before did to it."""
    daemon.pcloud("up", "--detach")
    return daemon


@pytest.fixture
def shop(stage: Stage) -> Stage:
    """The shop, as it stands in the manifest, running."""
    if any(each["name"] == "shop" for each in stage.deployables()):
        stage.pcloud("resume", "shop")
        stage.pcloud("start", "shop")
    stage.apply(SHOP)
    stage.running()
    return stage
