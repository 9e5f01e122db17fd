"""The QEMU guest agent: a way into a guest that uses no network, where the image has it (Debian: qemu-guest-agent).

Owns nothing. Concurrency: blocking functions for the connection's threads; each call to the agent is short, so a
command that runs long holds no thread.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import libvirt_qemu
import msgspec

from pcloud.environment.infrastructure import ExecResult

_LIMIT = 1024 * 1024


def ask(domain: Any, command: str, timeout: int = 5, **arguments: Any) -> Any:
    """Send one command to the agent and return what it answers. libvirtError when it does not within `timeout` seconds."""
    message: dict[str, Any] = {"execute": command}
    if arguments:
        message["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
    answer = libvirt_qemu.qemuAgentCommand(domain, msgspec.json.encode(message).decode(), timeout, 0)
    return msgspec.json.decode(answer.encode())["return"]


def start_command(domain: Any, argv: Sequence[str], stdin: bytes) -> int:
    """Start a command in the guest and return its process id there."""
    arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture_output": True}
    if stdin:
        arguments["input_data"] = base64.b64encode(stdin).decode()
    pid: int = ask(domain, "guest-exec", **arguments)["pid"]
    return pid


def command_result(domain: Any, pid: int) -> ExecResult | None:
    """Return how a command ended, None while it runs."""
    status = ask(domain, "guest-exec-status", pid=pid)
    if not status["exited"]:
        return None
    returncode = status["exitcode"] if "exitcode" in status else -int(status.get("signal", 9))
    return ExecResult(returncode=returncode, stdout=_data(status, "out-data"), stderr=_data(status, "err-data"))


def _data(status: dict[str, Any], key: str) -> bytes:
    return base64.b64decode(status.get(key, ""))[:_LIMIT]
