"""The tutorial, typed: every command in it, in its order, by a user whose terminal is in a fresh folder."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.stage import BIN, ROOT, SHOP, Stage, missing, names, tutorial_manifest, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing() or "-")]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
README = (ROOT / "README.md").read_text()
SETTING_UP = ("make setup", "export PATH=")
"""The tests run in an environment that is set up."""


def commands(text: str) -> list[str]:
    """Return the indented lines: what is typed."""
    return [
        line.split("  #")[0].strip() for line in text.splitlines() if re.match(r"    (pcloud|make|export|curl) ", line)
    ]


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage("t")
    stage.open()
    stage.pcloud("down")
    try:
        yield stage
    finally:
        stage.close()


def test_the_manifest_is_the_same_everywhere() -> None:
    assert tutorial_manifest(TUTORIAL) == tutorial_manifest(README) == SHOP


def test_every_command_of_the_tutorial(stage: Stage) -> None:
    typed = commands(TUTORIAL)
    assert typed[0] == "make setup"
    assert typed[-1] == "pcloud down"
    stage.write("shop.yaml", tutorial_manifest(TUTORIAL))
    watching = None
    log = stage.files / "watch.log"
    for line in typed:
        if line.startswith(SETTING_UP):
            continue
        if line.startswith("curl"):
            assert stage.page() == "shop\n"
            continue
        words = line.split()[1:]
        if words[:2] == ["events", "-f"]:
            with log.open("w") as file:
                watching = subprocess.Popen(
                    [BIN / "pcloud", *words], env=stage.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
                )
            continue
        if words[0] == "doctor":
            assert stage.run(*words).returncode in (0, 1)  # 1: this machine lacks something, and it says what
            continue
        if words[0] == "explain":
            # The first terminal shows the failure and the recovery: then the user asks why, and goes on.
            until("the recovery is told", lambda: "shop/web/httpd  running: runs again" in log.read_text())
            until("the recovery", lambda: "RESTART_RESOURCE" in stage.pcloud(*words), 30)  # noqa: B023
            continue
        stage.pcloud(*words)
    assert watching is not None
    watching.terminate()
    watching.wait(60)
    assert "shop/web/httpd  failed: its process exited" in log.read_text()
    assert stage.left() == []
    assert stage.bridge not in names("links")
