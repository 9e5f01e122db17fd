"""The agent on the Pythons that guests of other distributions have, where this machine has them (in PATH, or pyenv's)."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.remoted import AGENT, SOURCE, Daemon
from tests.transport.client import connected, operation

MODULES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for room in ("agent", "wire")
    for path in sorted((SOURCE / "pcloud" / room).glob("[a-z]*.py"))
    if path.name != "boot.py"  # the start itself
]


def _python(minor: int) -> str:
    """Return a Python of that version that can run the agent; skip where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for found in (shutil.which(f"python3.{minor}"), *sorted(pyenv.glob(f"versions/3.{minor}.*/bin/python3"))):
        ask = f"import ctypes, sys; sys.exit(sys.version_info[:2] != (3, {minor}))"
        if found and subprocess.run([found, "-c", ask], capture_output=True, check=False).returncode == 0:
            return str(found)
    pytest.skip(f"needs a Python 3.{minor} with ctypes, in PATH or pyenv's")


@pytest.mark.parametrize("minor", range(9, 15), ids=lambda minor: f"3.{minor}")
async def test_it_runs_services(tmp_path, minor):
    python = _python(minor)
    check = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import {', '.join(MODULES)}"
    subprocess.run([python, "-I", "-S", "-W", "error", "-c", check], check=True)
    agent = Daemon("pcloud", tmp_path)
    agent.command = (python, *AGENT[1:])
    try:
        agent.start()
        async with connected(agent, ipc_provider=True) as (connection, recorder):
            assert (await connection.execute(operation(agent, "start"))).rc == 0
            # An hour's interval: only the end of the process can tell.
            assert (await connection.execute(operation(agent, "monitor", interval=3600))).rc == 0
            os.kill(agent.service_pid(), signal.SIGKILL)
            await recorder.until(lambda r: any(result.rc == 7 for result in r.results))
            script = {"resource": "thing-2", "resource_class": "lsb", "provider": "", "type": "thing", "parameters": {}}
            for action in ("start", "monitor", "stop"):
                assert (await connection.execute(operation(agent, action, **script))).rc == 0
            unit = {**script, "resource": "thing-3", "resource_class": "systemd", "type": "pcloud-no-such-unit"}
            assert (await connection.execute(operation(agent, "monitor", **unit))).rc != 0
            assert agent.process is not None
            agent.process.send_signal(signal.SIGTERM)
            await recorder.until(lambda r: r.lost)
        assert agent.process.wait(60) == 0
    finally:
        agent.stop()
