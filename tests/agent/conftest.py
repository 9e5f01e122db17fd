"""Daemons for the tests of this room."""

import pytest

from tests.remoted import Daemon


@pytest.fixture
def agent(tmp_path):
    """Our agent, running."""
    made = Daemon("pcloud", tmp_path)
    made.start()
    yield made
    made.stop()
