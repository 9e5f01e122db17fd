"""Stand-in guests: one process that plays thousands of agents, over real TLS and the real protocol.

`python -m bench.standin [--address A] [--port P] --authkey FILE` listens, prints the port, and serves until its standard
input ends. Each connection is a guest of its own; every operation succeeds at once (a probe says "not running" until the
start), and recurring ones never fail. Its own memory and time belong to nobody's measurement.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from pcloud.agent import server
from pcloud.agent.__main__ import read_key, read_options
from pcloud.agent.loop import READ, Loop, set_log_level
from pcloud.wire import messages as m
from pcloud.wire.gnutls import Credentials

OK, NOT_RUNNING = 0, 7


class Standin:
    """All the guests."""

    def __init__(self, loop: Loop, credentials: Credentials) -> None:
        self.running: dict[str, set[str]] = {}
        self.call_id = 0
        self.operations = 0
        self.server = server.Server(
            loop, credentials, on_new=self._on_new, on_message=self._on_message, on_gone=self._on_gone
        )

    def _on_new(self, client: server.Client) -> None:
        self.running[client.id] = set()

    def _on_gone(self, client: server.Client) -> None:
        del self.running[client.id]

    def _on_message(self, client: server.Client, request: m.Element) -> None:
        operation = request.get("lrmd_op")
        number = request.number("lrmd_remote_msg_id")
        self.call_id += 1
        reply = m.Element(m.REPLY, {"lrmd_rc": "0", "lrmd_callid": str(self.call_id)})
        notice: m.Element | None = None
        if operation == m.OP_REGISTER:
            client.name = request.get("lrmd_clientname")
            reply.set("lrmd_op", operation).set("lrmd_clientid", client.id).set("lrmd_protocol_version", m.VERSION)
        elif operation == m.OP_EXEC:
            reply.set("lrmd_rc", self.call_id)
            notice = self._execute(client, request)
        elif operation == m.OP_RSC_INFO:
            reply.set("lrmd_rc", "-19")
        elif operation == m.OP_POKE:
            notice = m.Element(m.NOTIFY, {"lrmd_rc": "0", "lrmd_callid": str(self.call_id), "lrmd_op": operation})
        client.send(reply, number, "reply")
        if notice is not None:
            client.send(notice, 0, "notify")

    def _execute(self, client: server.Client, request: m.Element) -> m.Element:
        wanted = request.find(m.RSC) or m.Element(m.RSC)
        running = self.running[client.id]
        name, action = wanted.get("lrmd_rsc_id"), wanted.get("lrmd_rsc_action")
        self.operations += 1
        rc = OK
        if action == "start":
            running.add(name)
        elif action == "stop":
            running.discard(name)
        elif action in ("monitor", "status"):
            rc = OK if name in running else NOT_RUNNING
        now = str(int(time.time()))
        return m.Element(
            m.NOTIFY,
            {
                "lrmd_op": m.OP_EXEC,
                "lrmd_callid": str(self.call_id),
                "lrmd_exec_rc": str(rc),
                "lrmd_exec_op_status": "0",
                "lrmd_rsc_id": name,
                "lrmd_rsc_action": action,
                "lrmd_rsc_interval": wanted.get("lrmd_rsc_interval", "0"),
                "lrmd_rsc_userdata_str": wanted.get("lrmd_rsc_userdata_str"),
                "lrmd_timeout": wanted.get("lrmd_timeout", "0"),
                "lrmd_run_time": now,
                "lrmd_rcchange_time": now,
                "lrmd_exec_time": "1",
                "lrmd_queue_time": "0",
            },
        )


def main() -> None:
    """Serve until standard input ends."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    server.MAX_STRANGERS = 100_000  # a whole fleet connects at once here
    options = read_options(sys.argv[1:])
    set_log_level(4)
    loop = Loop()
    standin = Standin(loop, Credentials.psk_server(lambda: read_key(options["authkey"])))
    print(standin.server.listen(options["address"], int(options["port"])), flush=True)

    def on_input(_events: int) -> None:
        if not os.read(0, 4096):
            loop.stop()

    loop.watch(0, READ, on_input)
    loop.run()


def start(key_file: Path, *, address: str = "127.0.0.1") -> tuple[subprocess.Popen[str], int]:
    """Start a stand-in; return the process (end it by closing its `stdin`) and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.standin", "--address", address, "--port", "0", "--authkey", str(key_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


if __name__ == "__main__":
    main()
