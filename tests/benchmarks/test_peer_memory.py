"""The policy engine in C that memory is compared with: it is built, comes up with its sessions, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import packages, peer_memory


def children() -> set[str]:
    """Process ids of our children."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


@pytest.mark.real
def test_two_peers() -> None:
    missing = packages.missing()
    if missing:
        pytest.skip(f"the peer is built from Debian packages that are missing: {' '.join(missing)}")
    before = children()
    one = peer_memory.measure(2)
    assert 1_000_000 < one < 10_000_000
    assert children() <= before
