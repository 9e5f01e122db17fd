"""`pcloudsh`: one-shot, scripts, and interactive in a real terminal (pexpect), against the stand-in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.manifests import ACCEPTANCE
from tests.shell.conftest import BIN, PATIENCE, Run, WaitFor
from tests.shell.fakeapi import Fleet, Running

EVERY = {
    "jeos_create NAME ARCH": ["bookworm", "x86_64"],
    "jeos_list": [],
    "jeos_delete NAME ARCH": ["bookworm", "x86_64"],
    "assembly_create NAME JEOS ARCH": ["b", "bookworm", "x86_64"],
    "assembly_clone FROM TO": ["a", "b"],
    "assembly_delete NAME": ["a"],
    "assembly_list": [],
    "assembly_resource_add RESOURCE TEMPLATE ASSEMBLY": ["web", "httpd", "a"],
    "assembly_resource_list ASSEMBLY": ["a"],
    "assembly_resource_remove RESOURCE ASSEMBLY": ["r", "a"],
    "deployable_create NAME INFRASTRUCTURE USER MONITOR": ["e", "lxc", "me", "pm"],
    "deployable_delete DEPLOYABLE": ["d"],
    "deployable_list": [],
    "deployable_start DEPLOYABLE": ["d"],
    "deployable_stop DEPLOYABLE": ["d"],
    "deployable_reload DEPLOYABLE": ["d"],
    "deployable_status DEPLOYABLE": ["d"],
    "deployable_assembly_add DEPLOYABLE ASSEMBLY": ["d", "a"],
    "deployable_assembly_remove DEPLOYABLE ASSEMBLY": ["d", "m"],
    "deployable_assembly_list DEPLOYABLE": ["d"],
    "escalation_resource_set RESOURCE ASSEMBLY FAILURES PERIOD": ["r", "a", "3", "60"],
    "escalation_assembly_set ASSEMBLY FAILURES PERIOD": ["a", "3", "600"],
}


def arrange(fleet: Fleet) -> None:
    fleet.add("d", {"m": ["r"]}, state="running")
    if not fleet.assemblies:
        fleet.assemblies["a"] = {
            "name": "a",
            "jeos": "trixie",
            "arch": "x86_64",
            "resources": {"r": "httpd"},
            "deployables": [],
        }


def test_the_table_is_the_original_one() -> None:
    from pcloud.shell.verb_table import TABLE

    declared = [" ".join([verb.name, *(argument.name for argument in verb.arguments)]) for verb in TABLE]
    assert declared == list(EVERY)


@pytest.mark.parametrize("usage", EVERY)
def test_every_command_works_and_reaches_the_daemon(pcloudsh: Run, api: Running, usage: str) -> None:
    arrange(api.fleet)
    ended = pcloudsh(usage.split()[0], *EVERY[usage])
    assert ended.returncode == 0, ended.stderr
    assert api.fleet.calls


def test_acceptance_script_from_standard_input(pcloudsh: Run, api: Running) -> None:
    ended = pcloudsh(given=ACCEPTANCE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "dep1: running"
    assert list(api.fleet.deployables["dep1"]["assemblies"]) == ["assy1", "assy2", "assy3"]


def test_a_script_stops_at_the_first_error_unless_told(pcloudsh: Run, api: Running) -> None:
    script = "# a comment\n\ndeployable_status nope\ndeployable_create later\n"
    ended = pcloudsh(given=script)
    assert ended.returncode == 3
    assert "line 3: deployable_status nope" in ended.stderr
    assert "later" not in api.fleet.deployables
    ended = pcloudsh("-k", given=script)
    assert ended.returncode == 3
    assert "later" in api.fleet.deployables


def test_quit_ends_a_script(pcloudsh: Run, api: Running) -> None:
    assert pcloudsh(given="quit\ndeployable_create later\n").returncode == 0
    assert "later" not in api.fleet.deployables


def test_no_wait_returns_at_once(pcloudsh: Run, api: Running) -> None:
    arrange(api.fleet)
    api.fleet.delay = 3600
    ended = pcloudsh("deployable_start", "d", "--no-wait")
    assert (ended.returncode, ended.stdout) == (0, "d: start requested\n")


def test_a_start_that_fails_says_so(pcloudsh: Run, api: Running) -> None:
    arrange(api.fleet)
    api.fleet.deployables["d"]["state"] = "stopped"
    api.fleet.outcome = "failed"
    ended = pcloudsh("deployable_start", "d")
    assert ended.returncode == 1
    assert "d is failed: the resource db/mysqld does not start" in ended.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("deployable_lst",), 2, "did you mean deployable_list"),
        (("jeos_create", "bookworm"), 2, "jeos_create needs ARCH"),
        (("jeos_list", "x"), 2, "takes 0 arguments, not 1"),
        (("escalation_assembly_set", "a", "0", "60"), 2, "FAILURES is a whole number above 0"),
        (("escalation_assembly_set", "a", "3", "nan"), 2, "PERIOD is a number of seconds above 0"),
        (("deployable_create", "x", "lxc", "me", "zz"), 2, "MONITOR is am"),
        (("deployable_list", "--no-wait"), 2, "knows no option --no-wait"),
        (("assembly_delete", "nope"), 3, "there is no assembly 'nope'"),
        (("assembly_create", "a", "bookworm", "x86_64"), 4, "a exists already"),
    ],
)
def test_one_shot_exit_codes(pcloudsh: Run, api: Running, words: tuple[str, ...], code: int, says: str) -> None:
    arrange(api.fleet)
    ended = pcloudsh(*words)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert says in ended.stderr


def test_no_daemon(pcloudsh: Run) -> None:
    ended = pcloudsh("deployable_list", PCLOUD_URL="http://127.0.0.1:9")
    assert ended.returncode == 5
    assert "pcloud up" in ended.stderr


def test_help(pcloudsh: Run) -> None:
    text = pcloudsh("help").stdout
    assert all(usage.split()[0] in text for usage in EVERY)
    assert "Example: jeos_create bookworm x86_64" in pcloudsh("help", "jeos_create").stdout
    assert pcloudsh("jeos_create", "--help").stdout == pcloudsh("help", "jeos_create").stdout
    assert pcloudsh("help", "nope").returncode == 2


# --- in a terminal


@pytest.fixture
def terminal(environment: dict[str, str], api: Running) -> Iterator[pexpect.spawn]:
    arrange(api.fleet)
    child: pexpect.spawn = pexpect.spawn(
        str(BIN / "pcloudsh"),
        env={**environment, "PROMPT_TOOLKIT_NO_CPR": "1"},
        encoding="utf-8",
        timeout=PATIENCE,
        dimensions=(40, 160),
    )
    try:
        child.expect("daemon 0.1.0 on testhost")
        child.expect("pcloudsh>")
        yield child
    finally:
        child.close(force=True)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text)


def test_commands_and_end_with_control_d(terminal: pexpect.spawn) -> None:
    terminal.sendline("deployable_status d")
    terminal.expect("running")
    terminal.expect("pcloudsh>")
    terminal.sendline("deployable_status nope")
    terminal.expect("there is no deployable 'nope'")
    terminal.expect("pcloudsh>")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


def watching(api: Running) -> bool:
    return ("GET", "/v1/events/stream") in api.fleet.calls


def test_events_appear_above_the_line_being_typed(terminal: pexpect.spawn, api: Running, wait_for: WaitFor) -> None:
    wait_for(lambda: watching(api))
    terminal.send("deployable_sta")
    terminal.expect("deployable_sta")
    api.fleet.emit("resource.state", "d/m/r", "failed", "process ended")
    terminal.expect(r"d/m/r  failed: process ended")
    terminal.expect("deployable_sta")
    api.fleet.emit("resource.state", "d/m/r", "starting")
    api.fleet.emit("resource.state", "d/m/r", "running")
    terminal.expect(r"d/m/r  recovered, running again after")
    terminal.send("tus d\r")
    terminal.expect("ADDRESS")
    terminal.expect("pcloudsh>")


def test_events_are_told_while_a_command_waits(terminal: pexpect.spawn, api: Running, wait_for: WaitFor) -> None:
    wait_for(lambda: watching(api))
    api.fleet.delay = 3600
    terminal.sendline("deployable_reload d")
    terminal.expect("starting")
    api.fleet.emit("assembly.state", "d/m", "failed", "the guest is gone")
    terminal.expect("d/m  failed: the guest is gone")
    terminal.sendintr()
    terminal.expect("interrupted; what was asked for goes on")
    terminal.expect("pcloudsh>")


def see(terminal: pexpect.spawn, text: str) -> None:
    """Wait until a text stands on the line. Only what differs is drawn as a rule, so the line is drawn anew (Ctrl-L) until
    the text is in it as a whole."""
    for _ in range(300):
        terminal.send("\x0c")
        if terminal.expect_exact([text, pexpect.TIMEOUT], timeout=1) == 0:
            return
    raise AssertionError(f"{text!r} never appeared: {terminal.before!r}")


def test_completion_of_commands_and_names(terminal: pexpect.spawn, api: Running) -> None:
    terminal.send("deployable_assembly_l\t")
    see(terminal, "deployable_assembly_list")
    terminal.send(" \t")
    see(terminal, "deployable_assembly_list d")
    terminal.send("\r")
    terminal.expect("IMAGE")
    terminal.expect("pcloudsh>")
    assert ("GET", "/v1/deployables/d/assemblies") in api.fleet.calls


def test_history_is_kept(terminal: pexpect.spawn, environment: dict[str, str]) -> None:
    terminal.sendline("deployable_list")
    terminal.expect("INFRASTRUCTURE")
    terminal.expect("pcloudsh>")
    terminal.sendline("quit")
    terminal.expect(pexpect.EOF)
    path = Path(environment["XDG_STATE_HOME"]) / "pcloud" / "pcloudsh_history"
    assert "+deployable_list" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_the_daemon_goes_and_comes_back(terminal: pexpect.spawn, api: Running, wait_for: WaitFor) -> None:
    wait_for(lambda: watching(api))
    api.fleet.emit("resource.state", "d/m/r", "failed", "before")
    terminal.expect("failed: before")
    api.stop()
    terminal.expect("waiting for it to come back")
    api.fleet.emit("resource.state", "d/m/r", "running")
    again = Running(api.fleet, port=api.port)
    try:
        terminal.expect("the daemon is back")
        terminal.expect("d/m/r  recovered")
    finally:
        again.stop()
