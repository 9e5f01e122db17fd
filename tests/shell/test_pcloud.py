"""`pcloud` as a process against the stand-in: output forms, exit codes, errors, waiting."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.shell.conftest import BIN, PATIENCE, Run
from tests.shell.fakeapi import TOKEN, Running

MANIFEST = """\
deployable: shop
assemblies:
  db: {image: bookworm, resources: {mysqld: {template: mysqld}}}
  web: {image: bookworm, resources: {httpd: {template: httpd}}}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    path = tmp_path / "shop.yaml"
    path.write_text(MANIFEST)
    return str(path)


def test_apply_waits_until_all_runs(pcloud: Run, api: Running, manifest: str) -> None:
    ended = pcloud("apply", "-f", manifest, "--wait")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "shop created\n"
    assert "shop/web/httpd: running" in ended.stderr
    assert api.fleet.deployables["shop"]["state"] == "running"


def test_apply_that_can_not_run_is_told_and_fails(pcloud: Run, api: Running, manifest: str) -> None:
    api.fleet.outcome = "failed"
    ended = pcloud("apply", "-f", manifest, "--wait")
    assert ended.returncode == 1
    assert "shop is failed: the resource db/mysqld does not start [DEPLOYABLE_FAILED]" in ended.stderr
    assert "db/mysqld: failed [RESOURCE_FAILED]" in ended.stderr
    assert "pcloud explain shop" in ended.stderr


def test_a_failure_that_is_being_recovered_is_not_the_outcome(pcloud: Run, api: Running, manifest: str) -> None:
    """While the engine backs off after a failed start, the deployable is `failed`; only the final event ends the wait."""
    api.fleet.delay = 3600
    helper = threading.Thread(target=recover_later, args=(api,))
    helper.start()
    ended = pcloud("apply", "-f", manifest, "--wait")
    helper.join()
    assert ended.returncode == 0, ended.stderr
    assert "shop/db/mysqld: failed" in ended.stderr
    assert "shop/db/mysqld: running" in ended.stderr


def recover_later(api: Running) -> None:
    def shown() -> int:
        return sum(path == "/v1/deployables/shop" for _, path in list(api.fleet.calls))

    deadline = time.monotonic() + PATIENCE
    while shown() < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    found = api.fleet.deployables["shop"]
    found.update(state="failed", becomes=None)
    api.fleet.emit("deployable.state", "shop", "failed", "mysqld does not start")
    seen = shown()
    while shown() < seen + 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    found.update(state="running")


def test_what_is_not_tried_again_ends_the_wait(pcloud: Run, api: Running, manifest: str) -> None:
    api.fleet.outcome = "unrecoverable"
    ended = pcloud("apply", "-f", manifest, "--wait")
    assert ended.returncode == 1
    assert "db/mysqld: unrecoverable" in ended.stderr


def test_apply_that_takes_too_long(pcloud: Run, api: Running, manifest: str) -> None:
    api.fleet.delay = 3600
    ended = pcloud("apply", "-f", manifest, "--wait", "--timeout", "500ms")
    assert ended.returncode == 6
    assert "shop is not running after 0.5 s; it is starting" in ended.stderr


def test_a_change_is_not_taken_for_done_while_the_old_state_stands(pcloud: Run, api: Running, manifest: str) -> None:
    assert pcloud("apply", "-f", manifest, "--wait").returncode == 0
    Path(manifest).write_text(MANIFEST.replace("mysqld: {template: mysqld}", "mysqld: {template: mysqld, monitor: 5s}"))
    api.fleet.outcome = "failed"
    ended = pcloud("apply", "-f", manifest, "--wait")
    assert ended.stdout == "shop changed\n  assemblies.web\n"
    assert ended.returncode == 1


def test_apply_dry_run_changes_nothing(pcloud: Run, api: Running, manifest: str) -> None:
    ended = pcloud("apply", "-f", manifest, "--dry-run")
    assert (ended.returncode, ended.stdout) == (0, "shop would be created\n")
    assert api.fleet.deployables == {}


def test_apply_from_standard_input_as_xml(pcloud: Run, api: Running) -> None:
    ended = pcloud("apply", "-f", "-", given='<?xml version="1.0"?><deployable name="shop"/>')
    assert (ended.returncode, ended.stdout) == (0, "shop created\n")


def test_every_error_of_a_document_is_told_with_its_place(pcloud: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("shop: 1\nassemblies: 2\n")
    ended = pcloud("apply", "-f", str(path))
    assert ended.returncode == 1
    assert f"{path}:1: deployable is missing [MISSING_FIELD]\n    name it" in ended.stderr
    assert f"{path}:2: assemblies: assemblies is no mapping [BAD_TYPE]" in ended.stderr
    assert ended.stdout == ""


def test_get_in_all_forms(pcloud: Run, api: Running) -> None:
    api.fleet.add("shop", {"web": ["httpd"]}, state="running")
    assert [found["name"] for found in json.loads(pcloud("get", "-o", "json").stdout)] == ["shop"]
    assert yaml.safe_load(pcloud("get", "-o", "yaml").stdout)[0]["state"] == "running"
    head, row = pcloud("get").stdout.splitlines()
    assert head.split() == ["NAME", "STATE", "RUNNING", "INFRASTRUCTURE", "SINCE", "REASON"]
    assert row.split()[:4] == ["shop", "running", "1/1", "lxc"]


def test_tables_in_a_pipe_are_whole_and_plain(pcloud: Run, api: Running) -> None:
    api.fleet.add("shop", {}, state="failed")
    api.fleet.deployables["shop"]["reason"] = "x" * 500 + "\x1b]0;evil\x07\n" + "end"
    out = pcloud("get").stdout
    assert "x" * 500 in out
    assert "end" in out.splitlines()[1]
    assert "\x1b" not in out
    assert "\x07" not in out


def test_an_empty_list(pcloud: Run) -> None:
    ended = pcloud("get")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "there are no deployables" in ended.stderr
    assert json.loads(pcloud("get", "-o", "json").stdout) == []


def test_status_has_the_fixed_names(pcloud: Run, api: Running) -> None:
    api.fleet.add("shop", {"web": ["httpd"]}, state="running")
    found = json.loads(pcloud("status", "shop", "-o", "json").stdout)
    assert (found["name"], found["state"]) == ("shop", "running")
    [assembly] = found["assemblies"]
    assert (assembly["name"], assembly["state"], assembly["address"]) == ("web", "running", "10.0.3.2")
    assert (assembly["resources"][0]["name"], assembly["resources"][0]["state"]) == ("httpd", "running")


def test_events_as_json_are_one_cloudevent_a_line(pcloud: Run, api: Running) -> None:
    api.fleet.emit("resource.state", "shop/web/httpd", "failed", "process ended")
    api.fleet.emit("resource.state", "shop/web/httpd", "running")
    api.fleet.emit("resource.state", "other/a/b", "running")
    lines = pcloud("events", "shop/web", "-o", "json").stdout.splitlines()
    assert len(lines) == 2
    event = json.loads(lines[0])
    assert event["specversion"] == "1.0"
    assert event["data"]["state"] == "failed"
    assert {"deployable", "assembly", "resource", "state", "reason"} <= event["data"].keys()
    assert len(pcloud("events", "--after", "2", "-o", "json").stdout.splitlines()) == 1
    assert "shop/web/httpd  failed: process ended" in pcloud("events", "-n", "2", "shop").stdout


def test_explain_is_a_timeline(pcloud: Run, api: Running) -> None:
    api.fleet.decisions = [
        {
            "time": 1000.25,
            "number": 7,
            "trigger": "a process of the service ended",
            "observations": [
                {"what": "operation", "subject": "web/httpd", "signal": "exit", "detail": "rc 7", "time": 1000.2}
            ],
            "rules": [{"rule": "MONITOR_FAILED", "text": "stop, then start", "subject": "web/httpd"}],
            "actions": [
                {"action": "start", "subject": "web/httpd", "why": "it shall run", "state": "done", "seconds": 0.21}
            ],
            "cost": {"decide_ms": 1.2, "library_ms": 0.5},
            "outcome": "httpd runs again",
        }
    ]
    text = pcloud("explain", "shop/web/httpd").stdout
    assert "#7  a process of the service ended" in text
    assert "saw      operation web/httpd: rc 7  [signal: exit]  50 ms before" in text
    assert "rule     MONITOR_FAILED (web/httpd): stop, then start" in text
    assert "did      start web/httpd  done in 210 ms  (it shall run)" in text
    assert "cost     decision 1.2 ms, Pacemaker's library 0.5 ms" in text
    assert "outcome  httpd runs again" in text
    assert text.startswith("now: nothing stands still")
    assert json.loads(pcloud("explain", "shop", "-o", "json").stdout) == api.fleet.decisions


def test_explain_says_what_is_not_being_done(pcloud: Run, api: Running) -> None:
    waits = {"subject": "web/httpd", "rule": "BACK_OFF", "text": "not tried yet", "next": "by itself", "until": 1e9}
    api.fleet.standstill = [{"rule": "PAUSED", "text": "it is paused", "next": "`pcloud resume shop`"}, waits]
    ended = pcloud("explain", "shop/web/httpd")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[:3] == [
        "not being done now:",
        "    PAUSED             it is paused",
        "                       `pcloud resume shop`",
    ]
    assert "BACK_OFF           web/httpd: not tried yet  (until " in ended.stdout
    assert "no decision about shop/web/httpd is recorded" in ended.stderr
    found = json.loads(pcloud("explain", "shop/web/httpd", "--now", "-o", "json").stdout)
    assert [(one["rule"], one["subject"]) for one in found] == [("PAUSED", ""), ("BACK_OFF", "web/httpd")]
    assert found[1]["until"] == 1e9
    assert "no decision" not in pcloud("explain", "shop", "--now").stderr


@pytest.mark.parametrize("action", ["start", "stop", "reload", "recover"])
def test_actions_wait(pcloud: Run, api: Running, action: str) -> None:
    api.fleet.add("shop", {"web": ["httpd"]}, state="running" if action == "stop" else "failed")
    ended = pcloud(action, "shop", "--wait")
    assert (ended.returncode, ended.stdout) == (0, f"shop: {'stopped' if action == 'stop' else 'running'}\n"), (
        ended.stderr
    )
    assert ("POST", f"/v1/deployables/shop/{action}") in api.fleet.calls


def test_pause_and_resume(pcloud: Run, api: Running) -> None:
    api.fleet.add("shop", {})
    assert pcloud("pause", "shop").returncode == 0
    assert api.fleet.deployables["shop"]["paused"]
    assert pcloud("resume", "shop").returncode == 0
    assert not api.fleet.deployables["shop"]["paused"]


def test_status_without_a_name_lists_all(pcloud: Run, api: Running) -> None:
    api.fleet.add("shop", {"web": ["httpd"]})
    assert pcloud("status").stdout == pcloud("get").stdout
    assert pcloud("status", "-o", "json").stdout == pcloud("get", "-o", "json").stdout
    assert pcloud("status", "--watch").returncode == 2


def test_version_as_an_option() -> None:
    for program in ("pcloud", "pcloudsh"):
        asked = subprocess.run([BIN / program, "--version"], capture_output=True, text=True, check=True)
        assert asked.stdout.split() == [program, version("pacemaker-cloud")]


def test_delete_waits_for_its_job(pcloud: Run, api: Running) -> None:
    api.fleet.add("shop", {})
    ended = pcloud("delete", "shop", "--wait")
    assert (ended.returncode, ended.stdout) == (0, "shop: deleted\n")
    assert api.fleet.job_record("job-1")["state"] == "done"


def test_image_build_shows_progress_and_its_failure(pcloud: Run, api: Running) -> None:
    ended = pcloud("image", "build", "bookworm")
    assert (ended.returncode, ended.stdout) == (0, "bookworm x86_64: ready\n"), ended.stderr
    assert "jeos.build bookworm/x86_64: done" in ended.stderr
    api.fleet.outcome = "failed"
    ended = pcloud("image", "build", "bookworm")
    assert ended.returncode == 1
    assert "the mirror does not answer [MIRROR]" in ended.stderr


def test_exec_passes_input_output_and_exit_code(pcloud: Run, api: Running) -> None:
    api.fleet.add("shop", {"db": []})
    ended = pcloud("assembly", "exec", "shop/db", "--", "cat", "--flag", "a b", given="hello")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "hello", "err\n")
    assert api.fleet.executed[-1]["argv"] == ["cat", "--flag", "a b"]
    assert pcloud("assembly", "exec", "shop/db", "--", "exit", "7").returncode == 7


def test_exec_is_not_held_up_by_an_inherited_silent_pipe(environment: dict[str, str], api: Running) -> None:
    api.fleet.add("shop", {"db": []})
    with subprocess.Popen(
        [BIN / "pcloud", "assembly", "exec", "shop/db", "--", "true"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as child:
        assert child.wait(PATIENCE) == 0
        assert child.stderr is not None
        assert b"standard input is silent and was left out" in child.stderr.read()


def test_tokens(pcloud: Run, api: Running) -> None:
    assert pcloud("token", "create", "grafana").stdout == "secret-once\n"
    assert api.fleet.tokens["grafana"] == "viewer"
    assert "secret" not in pcloud("token", "list").stdout
    assert pcloud("token", "delete", "grafana").returncode == 0
    assert "grafana" not in api.fleet.tokens


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("status", "nope"), 3, "there is no deployable 'nope' [NOT_FOUND]"),
        (("get", "nope"), 3, "there is no deployable 'nope'"),
        (("status", ".."), 3, "'..' is no name of anything"),
        (("explain", "a/b/c/d"), 2, "is not of the form DEPLOYABLE/ASSEMBLY/RESOURCE"),
        (("assembly", "exec", "shop", "--", "true"), 2, "is not of the form DEPLOYABLE/ASSEMBLY"),
        (("nonsense",), 2, "No such command 'nonsense'"),
        (("apply", "-f", "/no/such/file"), 2, "No such file"),
        (("start", "shop", "--timeout", "soon"), 2, "no span of time"),
        (("assembly", "delete", "nope"), 3, "there is no assembly 'nope'"),
    ],
)
def test_exit_codes(pcloud: Run, words: tuple[str, ...], code: int, says: str) -> None:
    ended = pcloud(*words)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert says in ended.stderr


def test_conflict(pcloud: Run, api: Running) -> None:
    api.fleet.assemblies["a"] = {"name": "a", "jeos": "bookworm", "arch": "x86_64", "resources": {}, "deployables": []}
    assert pcloud("image", "delete", "bookworm").returncode == 4


def test_no_daemon(pcloud: Run) -> None:
    ended = pcloud("get", PCLOUD_URL="http://127.0.0.1:9")
    assert ended.returncode == 5
    assert "no daemon answers at http://127.0.0.1:9 (Connection refused)" in ended.stderr
    assert "pcloud up" in ended.stderr


def test_wrong_token(pcloud: Run) -> None:
    ended = pcloud("get", PCLOUD_TOKEN="Zx81-secret")
    assert ended.returncode == 7
    assert "does not accept the token from $PCLOUD_TOKEN" in ended.stderr
    assert "Zx81" not in ended.stderr


def test_token_from_a_file(pcloud: Run, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    assert pcloud("--token-file", str(path), "get", PCLOUD_TOKEN="").returncode == 0
    ended = pcloud("--token-file", "/no/such/file", "get")
    assert ended.returncode == 2
    assert "the token file /no/such/file can not be read" in ended.stderr


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://", "http://a:99999", "http://a:b"])
def test_bad_addresses(pcloud: Run, url: str) -> None:
    assert pcloud("--url", url, "get").returncode == 2


def test_a_reader_that_has_enough_is_no_error(environment: dict[str, str], api: Running) -> None:
    for number in range(3000):
        api.fleet.emit("resource.state", f"shop/web/r{number}", "running")
    shell = f"{BIN}/pcloud events -n 1000 | head -1"
    ended = subprocess.run(
        ["bash", "-c", shell], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert "r2000" in ended.stdout
    assert ended.stderr == ""
