"""Alert agents that a cluster has run on a node: our agent beside Pacemaker's own daemon."""

import os
import pwd
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from pcloud.wire import messages as m
from tests.peers.recorder import replay
from tests.remoted import Daemon

pytestmark = pytest.mark.real

ALERT = """#!/bin/sh
{ id -un; env | grep ^CRM_alert_ | sort; } > "$(dirname "$0")/new" && mv "$(dirname "$0")/new" "$(dirname "$0")/told"
"""


@pytest.fixture
def folder():
    """A folder that the cluster's user can reach, unlike pytest's own."""
    try:
        user = pwd.getpwnam("hacluster")
    except KeyError:
        pytest.skip("needs the user hacluster (Debian package pacemaker)")
    made = Path(tempfile.mkdtemp(prefix="pcloud-alert-", dir="/var/tmp"))
    os.chown(made, user.pw_uid, user.pw_gid)
    (made / "agent").write_text(ALERT)
    (made / "agent").chmod(0o755)
    yield made
    shutil.rmtree(made)


def alert(path: Path, *, timeout: int = 60_000) -> m.Element:
    values = {"CRM_alert_kind": "node", "CRM_alert_node": "remote1", "CRM_alert_desc": "lost <it> & found"}
    wanted = m.Element(m.ALERT, {"lrmd_alert_id": "mail", "lrmd_alert_path": str(path), "lrmd_timeout": str(timeout)})
    wanted.children.append(m.attributes_element(values))
    return m.command(m.OP_ALERT, wanted, timeout=timeout)


def ask(daemon: Daemon, *requests: m.Element) -> list[m.Element]:
    session = []
    for number, request in enumerate([m.register("test", version="1.1"), *requests], 1):
        request.set("lrmd_remote_msg_id", number).set("lrmd_remote_msg_type", "request")
        session += [(">", request.to_bytes().decode()), ("<", "")]
    return replay(daemon.port, daemon.key, session)


@pytest.mark.parametrize("kind", ["pcloud", "pacemaker"])
def test_an_alert_agent_is_run_as_the_clusters_user(kind, folder, tmp_path):
    daemon = Daemon(kind, tmp_path / kind)
    daemon.start()
    try:
        answers = ask(daemon, alert(folder / "agent"))
        assert [answer.number("lrmd_rc") for answer in answers if answer.tag == m.REPLY] == [0, 0]
        deadline = time.monotonic() + 60
        while not (folder / "told").exists():
            assert time.monotonic() < deadline, "the alert agent did not run"
            time.sleep(0.05)
        told = (folder / "told").read_text().splitlines()
        assert told[0] == "hacluster"
        assert {"CRM_alert_kind=node", "CRM_alert_node=remote1", "CRM_alert_desc=lost <it> & found"} <= set(told)
        assert "CRM_alert_node_sequence=1" in told
    finally:
        daemon.stop()


@pytest.mark.parametrize("kind", ["pcloud", "pacemaker"])
def test_what_is_no_alert_is_refused(kind, tmp_path):
    daemon = Daemon(kind, tmp_path / kind)
    daemon.start()
    try:
        nothing = m.command(m.OP_ALERT, m.Element(m.ALERT, {"lrmd_alert_id": "mail"}))
        answers = ask(daemon, nothing)
        assert [answer.number("lrmd_rc") for answer in answers if answer.tag == m.REPLY] == [0, -22]
    finally:
        daemon.stop()
