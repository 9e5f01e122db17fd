"""Daemons for the tests of this room: whatever holds for ours must hold for Pacemaker's own."""

import pytest

from tests.remoted import Daemon


@pytest.fixture(params=["pcloud", pytest.param("pacemaker", marks=pytest.mark.real)])
def daemon(request, tmp_path):
    """A daemon that speaks Pacemaker Remote, running."""
    made = Daemon(request.param, tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def agent(tmp_path):
    """Our agent, running."""
    made = Daemon("pcloud", tmp_path)
    made.start()
    yield made
    made.stop()
