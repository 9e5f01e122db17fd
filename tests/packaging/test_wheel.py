"""The wheel: it has what it needs, and works in an environment that knows nothing of a checkout."""

import os
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest

from pcloud.images.payload import UNIT
from pcloud.scheduler.client import binding_available

ROOT = Path(__file__).parents[2]
UV = ROOT / ".tools" / "bin" / "uv"

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

DECISION = """
import asyncio
from pcloud.scheduler.opening import open_scheduler

CIB = b'''<cib crm_feature_set="3.16.2" validate-with="pacemaker-3.8" epoch="1" num_updates="0" admin_epoch="0"
  have-quorum="1" dc-uuid="1" execution-date="1700000000"><configuration><crm_config><cluster_property_set id="o">
  <nvpair id="o-f" name="stonith-enabled" value="false"/></cluster_property_set></crm_config>
  <nodes><node id="1" uname="web"/></nodes>
  <resources><primitive id="httpd" class="ocf" provider="pacemaker" type="Dummy"/></resources><constraints/></configuration>
  <status><node_state id="1" uname="web" in_ccm="true" crmd="online" join="member" expected="member"/></status></cib>'''


async def main():
    scheduler = open_scheduler()
    try:
        print(scheduler.name, b"httpd_start_0" in await scheduler.schedule(CIB))
    finally:
        await scheduler.close()


asyncio.run(main())
"""
"""Prints by what a decision is made, and whether a service that does not run is to be started."""


def run(*argv: object, **environment: str) -> str:
    """Run a program outside the checkout; return what it printed."""
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, cwd="/", env={**os.environ, **environment}, check=False
    )  # fmt: skip
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


def wheel(folder: Path, **environment: str) -> Path:
    """Build the wheel of this checkout."""
    if not UV.exists():
        pytest.skip("needs uv, which `make setup` installs")
    run(UV, "build", "-q", "--python", "/usr/bin/python3", "--wheel", "-o", folder, ROOT, **environment)
    (made,) = folder.glob("*.whl")
    return made


def test_wheel_in_an_environment_of_its_own(tmp_path: Path) -> None:
    if not binding_available():
        pytest.skip("needs a C compiler and pacemaker-dev to build the binding")
    made = wheel(tmp_path / "wheels")
    assert "-cp311-abi3-linux_" in made.name
    names = set(ZipFile(made).namelist())
    assert {"pcloud/scheduler/_pacemaker.abi3.so", f"pcloud/agent/{UNIT}", "pcloud/agent/ocf/dummy"} <= names
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]

    place = tmp_path / "environment"
    run(UV, "venv", "-q", "--python", "/usr/bin/python3", place)
    lock = ROOT / "requirements.lock"
    run(
        UV,
        "pip",
        "install",
        "-q",
        "--python",
        place / "bin/python",
        "-c",
        lock,
        f"pacemaker-cloud[stacks] @ file://{made}",
    )
    assert run(place / "bin/pcloud", "--version").strip() == "pcloud 0.1.0"
    assert "pcloud/agent" in run(place / "bin/python", "-I", "-c", "import pcloud.agent; print(pcloud.agent.__file__)")
    assert run(place / "bin/python", "-I", "-c", DECISION).split() == ["library", "True"]
    pinned = {line.split(" ")[0].strip().lower() for line in lock.read_text().splitlines() if "==" in line}
    frozen = run(UV, "pip", "freeze", "-q", "--python", place / "bin/python").lower().splitlines()
    assert [line for line in frozen if line not in pinned and not line.startswith("pacemaker-cloud ")] == []
    # What guests are made with is found there, too.
    payload = "from pcloud.images.payload import agent_files; print(*(file.path for file in agent_files()))"
    assert f"/etc/systemd/system/{UNIT}" in run(place / "bin/python", "-I", "-c", payload).split()


def test_wheel_without_the_headers(tmp_path: Path) -> None:
    """Nobody is kept from installing: the engine then asks `crm_simulate`."""
    made = wheel(tmp_path, PKG_CONFIG_LIBDIR=str(tmp_path), PKG_CONFIG_PATH="")
    assert made.name.endswith("-py3-none-any.whl")
    assert "pcloud/scheduler/_pacemaker.abi3.so" not in ZipFile(made).namelist()
