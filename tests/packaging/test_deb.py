"""The Debian packages on a Debian 12 host with systemd: installed by apt, run by their units, broken, upgraded, removed.

One host for all tests, which are one story; each brings about what it begins with, so that it can be run again, or alone.
"""

import json
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pcloud.images.payload import agent_files
from tests.packaging.conftest import ROOT, Host, Packages

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Acquire::Retries=0"
UNIT = "pcloud-cped.service"
SETTINGS = "printf '[engine]\\nslots = 2\\n' > /etc/pcloud/pcloud.toml"
ENGINES = """
for lock in /var/lib/pcloud/run/dped-*.lock; do
  pid=$(tr -cd 0-9 < "$lock")
  if grep -qs pcloud[.]dpe[.]main "/proc/$pid/cmdline"; then echo "$pid $(cut -d' ' -f22 "/proc/$pid/stat")"; fi
done
"""
PATIENCE = 300.0


def until(what: str, reached: Callable[[], object], host: Host) -> None:
    """Wait for a state; the journal and the unit say why it was not reached."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            journal = host.run("journalctl", "--no-pager", "-n", "80", check=False)
            pytest.fail(f"not reached: {what}\n{host.run('systemctl', 'status', UNIT, check=False)}\n{journal}")
        time.sleep(0.2)


def sh(host: Host, command: str) -> str:
    """Run a line of shell in the host; return what it printed, errors too."""
    return host.run("sh", "-c", f"exec 2>&1; {command}")


def installed(host: Host, name: str) -> bool:
    """Tell whether a package is installed."""
    return host.run("dpkg-query", "-W", "-f=${db:Status-Status}", name, check=False) == "installed"


def install(host: Host) -> str:
    """Install the daemon's package, unless it is, and set two engine processes; return what apt said."""
    said = "" if installed(host, "pacemaker-cloud") else sh(host, f"{APT} install /packages/pacemaker-cloud.deb")
    sh(host, SETTINGS)
    return said


def shown(host: Host, name: str) -> str:
    """Return a property of the daemon's unit."""
    return host.run("systemctl", "show", "-p", name, "--value", UNIT).strip()


def daemon(host: Host) -> int:
    """Return the unit's main process; 0 for none."""
    return int(shown(host, "MainPID"))


def answers(host: Host) -> bool:
    """Tell whether the daemon answers the command line."""
    return host.run("pcloud", "get", "-o", "json", check=False).strip() != ""


def engines(host: Host) -> dict[int, str]:
    """Return the engine processes, by the locks that they hold, and when the kernel started each."""
    found = [line.split() for line in host.run("sh", "-c", ENGINES, check=False).splitlines()]
    return {int(one[0]): one[1] for one in found if len(one) == 2}


def running(host: Host) -> tuple[int, dict[int, str]]:
    """Have the daemon run and answer; return it and its engine processes."""
    install(host)
    host.run("systemctl", "reset-failed", UNIT, check=False)
    host.run("systemctl", "start", UNIT)
    until("the daemon answers", lambda: answers(host), host)
    until("there is an engine process", lambda: len(engines(host)) == 2, host)
    return daemon(host), engines(host)


def replaced(host: Host, old: int) -> None:
    """Wait for another daemon in the old one's place, that answers."""
    until("another daemon", lambda: daemon(host) not in (0, old), host)
    until("it answers", lambda: answers(host), host)


def test_nothing_is_enabled_by_an_installation(host: Host) -> None:
    if installed(host, "pacemaker-cloud"):
        sh(host, f"{APT} purge pacemaker-cloud")
    said = install(host)
    assert "systemctl enable --now pcloud-cped" in said
    # systemd knows the unit, and does nothing with it.
    assert shown(host, "LoadState") == "loaded"
    assert (shown(host, "ActiveState"), shown(host, "UnitFileState")) == ("inactive", "disabled")
    assert host.run("systemd-analyze", "verify", "--man=no", f"/lib/systemd/system/{UNIT}", check=False) == ""
    assert host.run("pcloud", "--version").startswith("pcloud 0.1.0")
    # It was compiled for everybody, and decides by Pacemaker's library.
    python = "/usr/lib/pacemaker-cloud/bin/python"
    tell = "from pcloud.scheduler import opening as o; print(o.open_scheduler().name, o.__cached__)"
    library, cached = host.run(python, "-I", "-c", tell).split()
    assert library == "library"
    clients = "import botocore.session as b; [b.Session().create_client(n, 'x') for n in ('s3', 'cloudwatch')]"
    host.run(python, "-I", "-c", clients)
    assert host.run("test", "-s", cached) == ""


def test_it_starts_with_the_settings_in_etc(host: Host) -> None:
    install(host)
    host.run("systemctl", "stop", UNIT)
    sh(host, "/usr/lib/pacemaker-cloud/end all")
    pid, engines_ = running(host)
    assert len(engines_) == 2
    assert json.loads(host.run("pcloud", "get", "-o", "json")) == []
    host.run("pcloud", "status")
    status = json.loads(host.run("pcloud", "version", "-o", "json"))
    assert status["daemon"]["version"] == status["client"]
    assert shown(host, "SubState") == "running"
    assert host.run("stat", "-c", "%a", "/var/lib/pcloud", "/var/lib/pcloud/token").split() == ["700", "600"]
    # A mistake is told, and changes nothing.
    sh(host, "echo 'slots = ' >> /etc/pcloud/pcloud.toml; systemctl reload pcloud-cped")
    until("the mistake is told", lambda: "settings were not reloaded" in host.run("pcloud", "events"), host)
    sh(host, f"{SETTINGS}; systemctl reload pcloud-cped")
    until("the settings are read", lambda: "the settings were reloaded" in host.run("pcloud", "events"), host)
    assert (daemon(host), engines(host)) == (pid, engines_)


def test_a_killed_daemon_is_back_and_its_engines_never_went(host: Host) -> None:
    pid, before = running(host)
    host.run("kill", "-9", str(pid))
    replaced(host, pid)
    assert engines(host) == before
    # A stray signal is no request to stay away.
    pid = daemon(host)
    host.run("kill", "-TERM", str(pid))
    replaced(host, pid)
    assert engines(host) == before


def test_a_daemon_that_hangs_is_replaced(host: Host) -> None:
    running(host)
    drop_in = "/run/systemd/system/pcloud-cped.service.d/quick.conf"
    text = "[Service]\nWatchdogSec=10\nTimeoutAbortSec=1\n"
    sh(
        host,
        f"mkdir -p {drop_in.rpartition('/')[0]}; printf %s {shlex.quote(text)} > {drop_in}; systemctl daemon-reload",
    )
    try:
        before = engines(host)
        host.run("systemctl", "restart", UNIT)
        until("the daemon answers", lambda: answers(host), host)
        pid = daemon(host)
        host.run("kill", "-STOP", str(pid))
        replaced(host, pid)
        assert "Watchdog timeout" in host.run("journalctl", "-u", UNIT, "--no-pager")
        assert engines(host) == before
    finally:
        sh(host, f"rm -f {drop_in}; systemctl daemon-reload; systemctl restart {UNIT}")


def test_stop_is_orderly_and_leaves_the_engines(host: Host) -> None:
    _, before = running(host)
    host.run("systemctl", "stop", UNIT)
    assert (shown(host, "ActiveState"), shown(host, "Result"), daemon(host)) == ("inactive", "success", 0)
    assert engines(host) == before
    assert running(host)[1] == before


def test_down_ends_all_of_it(host: Host) -> None:
    running(host)
    host.run("pcloud", "down")
    # A unit that is to be started again is "activating" meanwhile.
    until("the unit is at rest", lambda: shown(host, "ActiveState") == "inactive", host)
    assert shown(host, "Result") == "success"
    until("the engine processes ended", lambda: not engines(host), host)


def test_an_upgrade_brings_new_processes(host: Host) -> None:
    pid, before = running(host)
    sh(host, f"{APT} install --reinstall /packages/pacemaker-cloud.deb")
    replaced(host, pid)
    until(
        "every engine process is another",
        lambda: len(now := engines(host)) == 2 and not now.keys() & before.keys(),
        host,
    )


def test_what_remove_and_purge_leave(host: Host) -> None:
    running(host)
    assert int(sh(host, "dpkg -L pacemaker-cloud | tee /run/files | wc -l")) > 1000
    host.run("systemctl", "stop", "stand-in", check=False)
    guest = "exec -a '[lxc monitor] /var/lib/pcloud/infrastructure/lxc/guests web' sleep 7777"
    host.run("systemd-run", "--quiet", "--unit=stand-in", "bash", "-c", guest)
    said = sh(host, f"{APT} remove pacemaker-cloud")
    assert "guests and the services in them go on running" in said
    assert host.run("systemctl", "is-active", "stand-in").strip() == "active"
    assert not engines(host)
    assert shown(host, "LoadState") == "not-found"
    left = sh(host, 'while read -r path; do if [ -e "$path" ]; then echo "$path"; fi; done < /run/files').splitlines()
    assert [path for path in left if "pcloud" in path or "pacemaker" in path] == [
        "/etc/pcloud",
        "/etc/pcloud/pcloud.toml",
    ]
    assert host.run("ls", "/var/lib/pcloud/token")

    # Not under a guest that runs.
    assert "it is kept" in sh(host, "/var/lib/dpkg/info/pacemaker-cloud.postrm purge")
    assert host.run("ls", "/var/lib/pcloud/token")
    host.run("systemctl", "stop", "stand-in")
    sh(host, f"{APT} purge pacemaker-cloud")
    assert (
        sh(host, "ls -d /etc/pcloud /var/lib/pcloud /var/cache/pcloud /usr/lib/pacemaker-cloud || true").count(
            "No such"
        )
        == 4
    )
    assert (
        sh(host, f"find / -xdev -name '*{UNIT}*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/packages/*'")
        == ""
    )


def test_the_agent(host: Host) -> None:
    if installed(host, "pcloud-remoted"):
        sh(host, f"{APT} purge pcloud-remoted pacemaker-remote")
    control = (
        "Package: pacemaker-remote\nVersion: 1\nArchitecture: all\nMaintainer: nobody <a@b.c>\nDescription: stands in\n"
    )
    sh(host, f"mkdir -p /tmp/other/DEBIAN; printf %s {shlex.quote(control)} > /tmp/other/DEBIAN/control")
    sh(host, "dpkg-deb -b /tmp/other /tmp/other.deb; dpkg -i /tmp/other.deb")
    said = sh(host, f"{APT} install /packages/pcloud-remoted.deb")
    assert "serves the same TCP port 3121" in said
    assert host.run("systemctl", "is-enabled", "pcloud-remoted", check=False).strip() == "disabled"
    host.run("systemctl", "start", "pcloud-remoted")
    until("the agent listens", lambda: Host.__base__.listens(host), host)
    assert host.run("pcloud-remoted", "--version").strip()
    for file in agent_files():
        place = file.path.replace("/etc/systemd", "/lib/systemd")
        assert host.run("cat", place) == Path(file.source).read_text()
    sh(host, f"{APT} purge pcloud-remoted pacemaker-remote")
    assert (
        sh(host, "ls -d /usr/lib/pcloud /usr/lib/ocf/resource.d/pcloud /etc/default/pcloud-remoted || true").count(
            "No such"
        )
        == 3
    )
    with pytest.raises(OSError), socket.create_connection((host.address, 3121), 2):
        pass


def test_lintian_finds_no_error(packages: Packages) -> None:
    if not shutil.which("lintian"):
        pytest.skip("needs the program lintian (packaging/test-packages.txt)")
    argv = ["lintian", "--fail-on", "error", "--allow-root", "--tag-display-limit", "0", packages.cloud, packages.agent]
    judged = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_what_the_packages_have(packages: Packages) -> None:
    listed = subprocess.run(["dpkg-deb", "-c", str(packages.cloud)], capture_output=True, text=True, check=True).stdout
    for path in (
        "./usr/share/man/man1/pcloud.1.gz",
        "./usr/share/man/man8/pcloud-cped.8.gz",
        "./usr/share/bash-completion/completions/pcloud",
        "./usr/share/zsh/vendor-completions/_pcloud",
        "./usr/share/fish/vendor_completions.d/pcloud.fish",
        "./usr/bin/pcloudsh -> ../lib/pacemaker-cloud/bin/pcloudsh",
        "/pcloud/scheduler/_pacemaker.abi3.so",
    ):
        assert path in listed
    built = (ROOT / "src/pcloud/api/static/index.html").exists()
    assert ("/pcloud/api/static/index.html" in listed) == built
    assert "__pycache__" not in listed
    needs = subprocess.run(
        ["dpkg-deb", "-f", str(packages.cloud), "Depends"], capture_output=True, text=True, check=True
    ).stdout
    assert "libpacemaker1" in needs
