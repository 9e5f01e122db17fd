"""One OpenStack for the tests of this folder, which ends with the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clouds.peer import running


@pytest.fixture(scope="package")
def cloud() -> Iterator[dict[str, str]]:
    """The peer, running, and its credentials in the environment."""
    with running() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables


@pytest.fixture
def nova(cloud: dict[str, str]) -> Iterator[Any]:
    """The cloud as another one of its users sees it: what is done here is done behind the driver's back."""
    import openstack

    connection = openstack.connect()
    yield connection
    connection.close()
