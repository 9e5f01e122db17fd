"""Record `session.jsonl` anew: `python -m tests.peers.record_session` (root; takes some two minutes).

A real cluster drives Pacemaker's own daemon through the recorder: connection, probe, start, monitor, failure, recovery,
cancel by another interval, stop, removal of the resource.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from tests.peers.agents import SHARED
from tests.peers.cluster import Cluster
from tests.remoted import real_daemon

HERE = Path(__file__).parent


def main() -> None:
    """Record, and put the result beside this file."""
    with tempfile.TemporaryDirectory() as name:
        cluster = Cluster(Path(name))
        raw = cluster.state / "raw"
        try:
            cluster.start()
            daemon = real_daemon()
            cluster.spawn("remote", str(daemon), PCMK_remote_port="3132", PCMK_logfile="none")
            time.sleep(2)  # it has no way to tell that it listens
            root = str(HERE.parent.parent)
            argv = [sys.executable, "-m", "tests.peers.recorder", "3131", "3132", "/etc/pacemaker/authkey", str(raw)]
            cluster.spawn("remote", *argv, PYTHONPATH=f"{root}:{root}/src")
            cluster.create(
                "resources",
                '<primitive id="remote9" class="ocf" provider="pacemaker" type="remote"><instance_attributes id="r9-i">'
                f'<nvpair id="r9-i-s" name="server" value="{cluster.remote_address}"/>'
                '<nvpair id="r9-i-p" name="port" value="3131"/></instance_attributes><operations>'
                '<op id="r9-m" name="monitor" interval="5s" timeout="5s"/></operations></primitive>',
            )
            cluster.service("d9", "remote9", interval="2s")
            cluster.wait_where("d9", "remote9", 90)
            cluster.until(lambda: cluster.calls("d9").count("monitor") > 2, 30, "monitors")
            cluster.run("remote", "kill", "-9", cluster.pid("d9"))
            cluster.until(lambda: cluster.calls("d9").count("start") > 1, 30, "recovery")
            cluster.wait_where("d9", "remote9")
            cluster.until(cluster.idle, 30, "idle")
            cluster.run("cluster", "cibadmin", "-M", "-o", "resources", "-X", '<op id="d9-m" interval="30s"/>')
            time.sleep(2)
            cluster.until(cluster.idle, 30, "idle")
            cluster.meta("d9", "target-role", "Stopped")
            cluster.wait_where("d9", "")
            cluster.until(cluster.idle, 30, "idle")
            cluster.run("cluster", "crm_resource", "-C", "-r", "d9")
            time.sleep(2)
            cluster.until(cluster.idle, 30, "idle")
            text = raw.read_text()
        finally:
            cluster.stop()
    state = f"{SHARED}/d9"
    lines = [
        json.dumps([mark, message.replace(state, "@STATE@")]) for mark, message in map(json.loads, text.splitlines())
    ]
    (HERE / "session.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} messages")


if __name__ == "__main__":
    main()
