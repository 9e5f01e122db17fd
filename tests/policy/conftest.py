"""The scheduler inputs and transition graphs that the Pacemaker project recorded."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

ARCHIVE = "pacemaker-scheduler-2.1.5.tar.xz"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `xml/NAME.xml` (the CIB) and `exp/NAME.exp` (the graph)."""
    folder = os.environ.get("PCLOUD_CORPORA")
    if not folder:
        pytest.skip(f"PCLOUD_CORPORA is not set: the folder that holds {ARCHIVE}")
    archive = Path(folder, ARCHIVE)
    if not archive.exists():
        pytest.skip(f"PCLOUD_CORPORA has no {ARCHIVE}")
    target = tmp_path_factory.mktemp("corpus")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target / "scheduler"
