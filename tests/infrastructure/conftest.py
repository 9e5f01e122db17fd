"""What the tests of machines share: one libvirtd, swept after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.infrastructure.libvirtd import Libvirtd, run_libvirtd


@pytest.fixture(scope="package")
def shared_libvirtd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirtd]:
    with run_libvirtd(tmp_path_factory.mktemp("libvirtd")) as server:
        yield server


@pytest.fixture
def libvirtd(shared_libvirtd: Libvirtd) -> Iterator[Libvirtd]:
    """A libvirtd that has no guests, and that whatever a failed test leaves there is removed from."""
    yield shared_libvirtd
    shared_libvirtd.sweep()
