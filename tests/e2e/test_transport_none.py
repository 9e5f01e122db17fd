"""Guests that nobody goes into: the infrastructure's word is all there is."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from pcloud.model.manifest import read_manifest
from tests.e2e.stage import BIN, Stage, missing, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]
MANIFEST = """\
deployable: quiet
infrastructure: lxc
monitor: none
assemblies:
  one: {image: bookworm}
  two: {image: bookworm, after: [one]}
"""


def test_a_killed_guest_is_made_again_and_a_silent_one_left_alone(stage: Stage) -> None:
    stage.apply(MANIFEST)
    try:
        assert "pcloud-remoted" not in stage.guest("quiet/one", "ps", "-e", "-o", "args")
        other = stage.guest_init("quiet.two")
        cursor, killed = stage.cursor(), stage.guest_init("quiet.one")
        os.kill(killed, signal.SIGKILL)
        stage.told(cursor, "quiet/one", "failed")
        stage.told(cursor, "quiet/one", "running")
        stage.running("quiet")
        assert stage.guest_init("quiet.one") != killed
        assert stage.guest_init("quiet.two") == other
        # what runs is found again by another engine, and nothing is restarted for it
        before, cursor = stage.guest_init("quiet.one"), stage.cursor()
        stage.kill_all()
        stage.pcloud("up", "--detach")
        stage.running("quiet")
        assert (stage.guest_init("quiet.one"), stage.guest_init("quiet.two")) == (before, other)
        stage.pcloud("stop", "quiet", "--wait")
        until("stopped", lambda: stage.status("quiet")["state"] == "stopped", 10)
        stage.pcloud("start", "quiet", "--wait")
    finally:
        stage.pcloud("delete", "quiet", "--yes", "--wait")


@pytest.mark.parametrize(("word", "transport"), [("am", "remote"), ("pm", "ssh"), ("none", "none")])
def test_the_shells_last_word_reaches_the_assemblies(stage: Stage, word: str, transport: str) -> None:
    def shell(*words: str) -> None:
        done = subprocess.run(
            [BIN / "pcloudsh", *words], env=stage.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=1500,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)

    shell("jeos_create", "bookworm", "x86_64")
    shell("assembly_create", "novel", "bookworm", "x86_64")
    try:
        shell("deployable_create", "shelf", "lxc", "nobody", word)
        shell("deployable_assembly_add", "shelf", "novel")
        assert read_manifest(stage.pcloud("manifest", "shelf")).assembly("novel").transport == transport
        if transport != "none":
            shell("assembly_resource_add", "httpd", "httpd", "novel")
            assert read_manifest(stage.pcloud("manifest", "shelf")).assembly("novel").transport == transport
    finally:
        stage.run("delete", "shelf", "--yes", "--wait")
        shell("assembly_delete", "novel")
