"""Debian's own `attrd_updater`, through our agent, to a test that stands for the cluster: libqb's real client."""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from pcloud.wire import messages as m
from tests.agent.controller import Controller
from tests.remoted import Daemon, wait_for

pytestmark = pytest.mark.real
_CLONE_NEWNET = 0x40000000


def connect_in(pid: int, port: int) -> socket.socket:
    """Connect to loopback in another process's network namespace."""
    made: list[socket.socket] = []

    def connect() -> None:  # a thread of its own: its namespace is not the other threads'
        with Path(f"/proc/{pid}/ns/net").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.create_connection(("127.0.0.1", port), 60))

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    return made[0]


@pytest.fixture
def node(tmp_path):
    """Our agent in a network namespace of its own (the sockets' names belong to it), and how to run a tool there."""
    if os.geteuid() != 0:
        pytest.skip("needs root for namespaces")
    if shutil.which("attrd_updater") is None:
        pytest.skip("needs attrd_updater (Debian package pacemaker-cli-utils)")
    holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"],
                              stdout=subprocess.PIPE)  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    daemon = Daemon("pcloud", tmp_path)
    daemon.prefix = ["nsenter", "-n", "-t", str(holder.pid), "--"]
    try:
        daemon.start(wait=False)
        wait_for(lambda: "listening" in daemon.log.read_text(), what="the agent listening")
        yield daemon, holder.pid
    finally:
        daemon.stop()
        holder.kill()
        holder.wait()
        holder.stdout.close()


def tool(pid: int, *argv: str) -> subprocess.Popen[str]:
    command = ["nsenter", "-n", "-t", str(pid), "--", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=60)
    return process.returncode, out


def test_an_update_and_its_end(node):
    daemon, pid = node
    cluster = Controller(connect_in(pid, daemon.port), daemon.key)
    updater = tool(pid, "attrd_updater", "-n", "colour", "-U", "blue & <green>")
    session = cluster.wait("new").get("lrmd_ipc_session")
    request = cluster.wait("request")
    assert request.get("lrmd_ipc_session") == session
    assert request.get("lrmd_ipc_user") == "root"
    body = request.child("lrmd_ipc_msg").children[0]
    assert (body.get("task"), body.get("attr_name"), body.get("attr_value")) == ("update", "colour", "blue & <green>")
    cluster.answer(request, m.Element("ack", {"status": "0"}))
    assert ended(updater) == (0, "")
    assert cluster.wait("destroy").get("lrmd_ipc_session") == session
    wait_for(lambda: not list(Path("/dev/shm").glob(f"qb-pcloud-{daemon.process.pid}-*")), what="the session's end")
    cluster.end.close()


def test_the_cluster_ends_a_session_or_goes_away(node):
    """The tool does not hang."""
    daemon, pid = node
    cluster = Controller(connect_in(pid, daemon.port), daemon.key)
    updater = tool(pid, "attrd_updater", "-n", "colour", "-U", "blue")
    session = cluster.wait("request").get("lrmd_ipc_session")
    cluster.forward("destroy", session=session)
    assert ended(updater)[0] != 0
    updater = tool(pid, "attrd_updater", "-n", "colour", "-U", "blue")
    cluster.wait("request")
    cluster.end.close()
    assert ended(updater)[0] != 0
    # Without a cluster a tool is refused at once.
    code, said = ended(tool(pid, "attrd_updater", "-n", "colour", "-U", "blue"))
    assert code != 0
    assert "Remote I/O error" in said or "not connected" in said.lower(), said


def test_a_message_too_large_for_a_datagram_travels_compressed(node):
    daemon, pid = node
    cluster = Controller(connect_in(pid, daemon.port), daemon.key)
    value = "".join(chr(97 + n % 26) for n in range(120_000))
    updater = tool(pid, "attrd_updater", "-n", "long", "-U", value)
    request = cluster.wait("request")
    assert request.child("lrmd_ipc_msg").children[0].get("attr_value") == value
    answer = m.Element("ack", {"status": "0", "padding": value * 3})
    cluster.answer(request, answer)
    assert ended(updater) == (0, "")
    cluster.end.close()
