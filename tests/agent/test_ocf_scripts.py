"""The OCF agents that go into guests, run for real."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lxml import etree

import pcloud.agent

AGENTS = Path(pcloud.agent.__file__).parent / "ocf"


def run(agent: str, action: str, folder: Path, **parameters: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PCLOUD_RUN": str(folder), "OCF_RESOURCE_INSTANCE": "r"}
    environment |= {f"OCF_RESKEY_{name}": value for name, value in parameters.items()}
    return subprocess.run(
        ["dash", str(AGENTS / agent), action], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("agent", ["configure", "dummy"])
def test_metadata_names_every_action(agent: str, tmp_path: Path) -> None:
    done = run(agent, "meta-data", tmp_path)
    root = etree.fromstring(done.stdout.encode())
    assert root.get("name") == agent
    assert {a.get("name") for a in root.iter("action")} >= {"start", "stop", "monitor", "meta-data", "validate-all"}


def test_configure_runs_once_with_its_parameters(tmp_path: Path) -> None:
    nasty = "a \"b\" $(touch /tmp/never) `x` \\ 'q'\nsecond line"
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\nprintf "%s|%s|%s|%s" "$db_host" "$PCLOUD_DB_HOST" "$1" "$odd" > "$2"\n')
    script.chmod(0o755)
    given = {
        "resource": "httpd", "executable_0": str(script), "executable_1": "one argument",
        "executable_2": str(tmp_path / "out"),
        "param_db_host": "10.0.0.1", "param_odd": nasty,
    }  # fmt: skip
    assert run("configure", "monitor", tmp_path, **given).returncode == 7
    done = run("configure", "start", tmp_path, **given)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").read_text() == f"10.0.0.1|10.0.0.1|one argument|{nasty}"
    assert run("configure", "monitor", tmp_path, **given).returncode == 0
    kept = tmp_path / "httpd.env"
    assert kept.stat().st_mode & 0o777 == 0o600
    read = subprocess.run(["dash", "-c", f'. {kept}; printf "%s" "$odd"'], capture_output=True, text=True, check=True)
    assert read.stdout == nasty
    assert run("configure", "stop", tmp_path, **given).returncode == 0
    assert run("configure", "monitor", tmp_path, **given).returncode == 7


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({}, 2),
        ({"resource": "../x"}, 2),
        ({"resource": "x", "executable_0": "/not/there"}, 5),
        ({"resource": "x", "executable_0": "/bin/false"}, 1),
    ],
)
def test_configure_failures_have_codes_and_reasons(parameters: dict[str, str], code: int, tmp_path: Path) -> None:
    done = run("configure", "start", tmp_path, **parameters)
    assert done.returncode == code
    assert "ocf-exit-reason:" in done.stderr
    assert not list(tmp_path.glob("*.configured"))


def test_dummy_runs_and_fails_as_told(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    assert run("dummy", "monitor", tmp_path, state=state).returncode == 7
    assert run("dummy", "start", tmp_path, state=state, fail_start_rc="6").returncode == 6
    assert run("dummy", "start", tmp_path, state=state).returncode == 0
    assert run("dummy", "monitor", tmp_path, state=state).returncode == 0
    assert run("dummy", "stop", tmp_path, state=state).returncode == 0
    assert run("dummy", "start", tmp_path, state="relative").returncode == 2
    assert run("dummy", "nonsense", tmp_path).returncode == 3
