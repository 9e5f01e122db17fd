"""What every room's tests share, and how rooms are given to workers when several run them (`make test`: two).

Real daemons and guests mostly wait, so that something else can run meanwhile. A room whose tests share daemons, guests or a
lock is one piece of work, as are rooms that share them with each other; of the other rooms each file is one. The longest
pieces come first.
"""

import os
import signal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# An example takes what it takes on a slow machine; and a run tells of the change at hand, not of chance: the examples are
# the same each time. Who searches for more says how many: PCLOUD_EXAMPLES=3000.
settings.register_profile(
    "pcloud",
    deadline=None,
    derandomize="PCLOUD_EXAMPLES" not in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pcloud")

# Contracts are modules of their own: their assertions shall tell what they saw, too.
pytest.register_assert_rewrite("tests.infrastructure.contract", "tests.transport.contract")

# What a shell without job control starts in the background ignores SIGINT, and so would every program that a test
# starts to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TOGETHER = {
    "e2e": "e2e",
    "clouds": "peers of others",  # one OpenStack, and one Swift with the stacks
    "stacks": "peers of others",
    "machines": "machines",  # libvirt and its guests
    "infrastructure": "machines",
    "images": "machines",
    "peers": "peers",
    "packaging": "packaging",  # one build, one host
}
"""The piece of work of each room whose tests stay together; longest first."""


def room(nodeid: str) -> str:
    """Return the room of a test."""
    return nodeid.split("/")[1]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, when there are workers."""
    if hasattr(config, "workerinput"):
        order = list(TOGETHER)
        items.sort(key=lambda item: order.index(name) if (name := room(item.nodeid)) in order else len(order))


class Rooms(LoadFileScheduling):
    """Gives a worker all of a piece of work."""

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER.get(room(nodeid)) or super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Rooms:
    """Choose who gets what."""
    config.option.loadscopereorder = False
    return Rooms(config, log)
