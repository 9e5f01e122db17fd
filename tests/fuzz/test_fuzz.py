"""The fuzzers for some seconds, on the kept corpus and always the same mutations of it: a change is tested here, not chance.
`python -m tests.fuzz 600` searches."""

import subprocess
import sys
from pathlib import Path


def test_fuzz_for_some_seconds():
    """In a process of its own: a target replaces parts of the agent."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "5", "1"],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "inputs tried" in done.stdout
