"""A daemon as a process, shared by this room's tests that do not kill it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cpe.harness import DaemonProcess


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path_factory.mktemp("api") / "home")
    try:
        made.start()
        yield made
    finally:
        made.close()
        made.client.close()
