"""What must survive: our processes killed, guests that hang, builds broken off; and that `explain` tells why."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import pytest

from tests.e2e.stage import BIN, SHOP, Stage, until
from tests.guests import BOOT
from tests.ports import free_port

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
SMALL = """\
deployable: NAME
infrastructure: lxc
assemblies:
  one:
    image: bookworm
    resources:
      front: {template: nginx, monitor: 10s}
"""


def small(name: str) -> str:
    return SMALL.replace("NAME", name)


def remove(stage: Stage, name: str) -> None:
    stage.run("delete", name, "--yes", "--wait")


def guests(stage: Stage, name: str) -> list[str]:
    return [line for line in stage.left() if f"{name}." in line]


def test_explain_holds_all_of_a_recovery(shop: Stage) -> None:
    cursor = shop.cursor()
    shop.guest("shop/web", "kill", "-9", shop.main_pid("shop/web", "apache2"))
    shop.told(cursor, "shop/web/httpd", "running")
    shop.running()

    said = []

    def told() -> bool:
        said.append(shop.pcloud("explain", "shop/web/httpd", "--limit", "1"))
        return "RESTART_RESOURCE" in said[-1] and "3 of 3" in said[-1]

    until("the decision in the journal", told)
    text = said[-1]
    for part in (
        "saw      resource operation web/httpd: its process exited",
        "[signal: exit]",
        "rule     RESTART_RESOURCE (web/httpd): failure",
        "start web/httpd  done in",
        "cost     decision",
        "Pacemaker's library",
        "outcome",
    ):
        assert part in text, text
    decision = shop.json("explain", "shop/web/httpd", "--limit", "1")[0]
    assert {"time", "number", "trigger", "observations", "rules", "actions", "cost", "outcome"} <= decision.keys()


def test_engine_and_daemon_killed_together_in_a_start(stage: Stage) -> None:
    try:
        stage.apply(small("killed"))  # its image is there from now on
        remove(stage, "killed")
        cursor = stage.cursor()
        stage.pcloud("apply", "-f", stage.write("killed.yaml", small("killed")))
        stage.told(cursor, "killed/one", "starting")
        stage.kill_all()
        stage.pcloud("up", "--detach")
        stage.running("killed")
        assert stage.guest("killed/one", "systemctl", "is-active", "nginx") == "active"
        assert len([line for line in guests(stage, "killed") if "[lxc monitor]" in line]) == 1
    finally:
        remove(stage, "killed")


def test_engine_and_daemon_killed_together_leave_what_runs_alone(shop: Stage) -> None:
    before = shop.processes()
    shop.kill_all()
    shop.pcloud("up", "--detach")
    shop.running()
    assert shop.processes() == before


def test_engine_and_daemon_killed_together_in_a_delete(stage: Stage) -> None:
    stage.apply(small("leaving"))
    cursor = stage.cursor()
    stage.pcloud("delete", "leaving", "--yes", "--no-wait")
    until("the delete begun", lambda: bool(stage.events(cursor, "leaving")), 10)
    stage.kill_all()
    stage.pcloud("up", "--detach")
    until("the delete carried through", lambda: "leaving" not in [e["name"] for e in stage.deployables()], 60)
    try:
        until("nothing left of its guest", lambda: guests(stage, "leaving") == [], 30)
    except AssertionError as error:
        raise AssertionError(f"left of its guest: {guests(stage, 'leaving')}") from error


def test_an_image_build_broken_off_is_taken_up_again(stage: Stage) -> None:
    marker = f"{time.time_ns()}"
    port = free_port()  # the build waits until somebody listens there
    command = f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.1; done; echo {marker} > /etc/marker"
    text = small("broken") + f"    commands:\n      - [bash, -c, '{command}']\n"
    path = stage.write("broken.yaml", text)
    try:
        waiting = subprocess.Popen(
            [BIN / "pcloud", "apply", "-f", path, "--wait"],
            env=stage.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until("the build begun", lambda: "building image" in reason(stage, "broken"), 30)
            waiting.send_signal(signal.SIGINT)
            # Ctrl-C ends the wait, not what is waited for.
            assert waiting.wait(60) == 130
        finally:
            waiting.kill()
            waiting.wait()
        assert "building image" in reason(stage, "broken")
        os.kill(stage.daemon_pid(), signal.SIGKILL)
        stage.pcloud("up", "--detach")
        with socket.create_server(("127.0.0.1", port)):
            stage.pcloud("apply", "-f", path, "--wait")
        assert stage.guest("broken/one", "cat", "/etc/marker") == marker
    finally:
        remove(stage, "broken")


def reason(stage: Stage, name: str) -> str:
    return next((each["reason"] for each in stage.deployables() if each["name"] == name), "")


def test_a_failed_build_of_a_change_is_told_and_touches_nothing(shop: Stage) -> None:
    before = shop.processes()
    bad = SHOP.replace("packages: [apache2]", "packages: [apache2, no-such-package-at-all]")
    done = shop.run("apply", "-f", shop.write("bad.yaml", bad), "--wait")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no-such-package-at-all" in done.stderr
    assert shop.processes() == before
    assert shop.page() == "shop\n"


def test_a_frozen_guest_is_isolated_and_started_again(shop: Stage) -> None:
    boot, cursor = shop.guest("shop/web", *BOOT), shop.cursor()
    folder = str(shop.home / "infrastructure/lxc/guests")
    subprocess.run(["lxc-freeze", "-P", folder, "-n", "shop.web"], check=True)
    shop.told(cursor, "shop/web", "suspect", 60)
    shop.told(cursor, "shop/web/httpd", "running", 60)
    shop.running()
    assert shop.guest("shop/web", *BOOT) != boot

    def rules() -> list[str]:
        return [rule["rule"] for decision in shop.json("explain", "shop/web") for rule in decision["rules"]]

    until("the decision in the journal", lambda: any("ISOLATE" in rule for rule in rules()))


def test_a_killed_guest_comes_back(shop: Stage) -> None:
    cursor = shop.cursor()
    os.kill(shop.guest_init("shop.web"), signal.SIGKILL)
    failed = shop.told(cursor, "shop/web", "failed")
    assert failed["data"]["reason"]
    shop.told(cursor, "shop/web/httpd", "running")
    shop.running()
    assert shop.page() == "shop\n"


@pytest.mark.parametrize("fault", ["service-killed", "guest-killed", "link-cut", "engine-killed"])
def test_a_drill_of_every_fault_on_real_guests(shop: Stage, fault: str) -> None:
    shop.pcloud("recover", "shop")  # the tests before have spent what the escalation rules allow
    before = shop.processes()
    words = ["--fault", fault, "--budget", "300s"] + ([] if fault == "engine-killed" else ["--assembly", "web"])
    page = shop.page_url()
    report = shop.json("drill", "shop", *words, "--probe", page)
    assert report["passed"], report
    (lost,) = report["probes"]
    assert (lost["url"], lost["answers"]) == (page, True)
    assert lost["asked"] > lost["failed"]
    if fault == "guest-killed":
        # Where the guest is back within the second after which a connection is tried again, no request fails: one waits.
        assert lost["failed"] or lost["slowest_s"] > 0.1, "its page is away until it is there again"
        assert (lost["unanswered_s"] > 0) == (lost["failed"] > 0)
    assert 0 <= report["detected_s"] <= report["recovered_s"]
    assert report["noticed"]
    after = shop.processes()
    assert (after["apache2"] != before["apache2"]) == (fault in ("service-killed", "guest-killed"))
    assert (after["web"] != before["web"]) == (fault == "guest-killed")
    assert (after["db"], after["mariadb"]) == (before["db"], before["mariadb"]), "nothing else was touched"
    shop.running()
    assert shop.page() == "shop\n"
    assert shop.json("drills", "shop")[0] == report
    assert any(event["type"].endswith("drill.passed") for event in shop.events(name="shop"))
    until("the drill in the journal", lambda: "DRILL" in shop.pcloud("explain", "shop", "--limit", "50"))


def test_a_drill_is_refused_where_it_is_not_safe(shop: Stage) -> None:
    shop.pcloud("pause", "shop")
    refused = shop.run("drill", "shop", "--fault", "guest-killed", "--force")
    shop.pcloud("resume", "shop")
    shop.running()
    assert refused.returncode != 0
    assert "recovery is paused" in refused.stderr
    assert shop.run("drill", "shop", "--assembly", "cache").returncode != 0


def test_settings_are_read_again_and_a_stopped_engine_is_noticed(shop: Stage) -> None:
    """The real engine process: stopped, with its connection open. Guests and services must not notice."""
    before, cursor = shop.processes(), shop.cursor()
    settings = shop.home / "pcloud.toml"
    kept = settings.read_text()
    try:
        settings.write_text(f"[engine]\nsilence_timeout = 6\n{kept}")
        os.kill(shop.daemon_pid(), signal.SIGHUP)
        until("settings", lambda: any("reloaded" in e["data"]["reason"] for e in shop.events(cursor)), 10)
        pids = shop.engine_pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        until("others", lambda: len(shop.engine_pids()) == len(pids) and not shop.engine_pids() & pids, 30)
        shop.running()
        assert shop.processes() == before
        assert [e for e in shop.events(cursor) if e["type"].endswith("engine.silent")]
    finally:
        settings.write_text(kept)
        os.kill(shop.daemon_pid(), signal.SIGHUP)
