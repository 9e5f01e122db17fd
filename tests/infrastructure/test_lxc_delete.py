"""A delete of an LXC guest that was killed at any moment is carried through by the next one; no guest need run for that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_delete_killed_at_every_change_of_the_disk_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.infrastructure.killed_delete", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout.splitlines()[-1])
    assert len(left) > 10, "it was killed at every single step"
    assert [(number, each) for number, each in enumerate(left, 1) if each] == []
