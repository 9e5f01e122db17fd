"""The program that makes an assembly's layer: runs in namespaces of its own (`sandbox`).

Reads a Plan (JSON) from standard input. Mounts an overlay of the JEOS, installs packages, writes files, runs commands, sets
units; whatever it mounts vanishes with its namespace. Prints `progress FRACTION WORDS` lines, and what programs print.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from pcloud.images.assembly import ImageFile, Plan
from pcloud.images.sandbox import LOCK

POLICY = "#!/bin/sh\n# No service is started while an image is made.\nexit 101\n"
STALE = 6 * 3600
"""Seconds after which package lists are read anew before an installation; a failed one reads them at once."""


def main() -> int:
    """Carry out the plan; the exit status tells whether all of it was."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    for folder in (plan.layer, plan.work, plan.mount):
        Path(folder).mkdir(mode=0o755)
    try:
        _mount(plan)
        policy = Path(plan.mount, "usr/sbin/policy-rc.d")
        policy.write_text(POLICY)
        policy.chmod(0o755)
        _install(plan)
        _say(0.8, "writing files")
        for item in plan.payload:
            _write(plan.mount, ImageFile(path=item.path, content=Path(item.source).read_text(), mode=item.mode))
        for file in plan.files:
            _write(plan.mount, file)
        for index, command in enumerate(plan.commands):
            _say(0.85 + 0.1 * index / len(plan.commands), f"running {command[0]}")
            _chroot(plan.mount, command)
        _say(0.95, "setting units")
        if plan.enable:
            _chroot(plan.mount, ("systemctl", "enable", "--quiet", *plan.enable))
        for unit in plan.disable:
            # A unit may be missing: templates name all that a service has on any distribution.
            _chroot(plan.mount, ("systemctl", "disable", "--quiet", unit), check=False)
        policy.unlink()
        _tidy(plan)
    except subprocess.CalledProcessError as error:
        sys.stdout.write(f"error: {' '.join(error.cmd)} ended with status {error.returncode}\n")
        return 1
    except OSError as error:
        sys.stdout.write(f"error: {error}\n")
        return 1
    _say(1.0, "done")
    return 0


def _say(fraction: float, words: str) -> None:
    sys.stdout.write(f"progress {fraction:.3f} {words}\n")
    sys.stdout.flush()


def _mount(plan: Plan) -> None:
    mount = plan.mount
    options = f"lowerdir={plan.lower},upperdir={plan.layer},workdir={plan.work}"
    _run("mount", "-t", "overlay", "overlay", "-o", options, mount)
    _run("mount", "-t", "proc", "proc", f"{mount}/proc")
    _run("mount", "-t", "sysfs", "-o", "ro", "sysfs", f"{mount}/sys")
    _run("mount", "-t", "tmpfs", "tmpfs", f"{mount}/run")
    _run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{mount}/tmp")  # noqa: S108 - the image's
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{mount}/dev")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        Path(mount, "dev", name).touch()
        _run("mount", "--bind", f"/dev/{name}", f"{mount}/dev/{name}")
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        Path(mount, "dev", name).symlink_to(target)
    for name in ("shm", "pts"):
        Path(mount, "dev", name).mkdir()
    for source, target in ((plan.archives, "var/cache/apt/archives"), (plan.lists, "var/lib/apt/lists")):
        Path(source, "partial").mkdir(parents=True, exist_ok=True)
        Path(mount, target).mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", source, f"{mount}/{target}")
    # The host's name resolution, for the time of the build only.
    host = Path("/etc/resolv.conf")
    inside = Path(mount, "etc/resolv.conf")
    if host.is_file() and inside.is_file() and not inside.is_symlink():
        _run("mount", "--bind", str(host.resolve()), str(inside))


def _install(plan: Plan) -> None:
    if not plan.packages:
        return
    settings = Path(plan.mount, "run/pcloud-apt.conf")
    settings.write_text(
        "\n".join((*plan.apt_settings, 'APT::Install-Recommends "false";', 'DPkg::Options:: "--force-unsafe-io";', ""))
    )
    stamp = Path(plan.lists, "pcloud-stamp")
    fresh = stamp.exists() and time.time() - stamp.stat().st_mtime < STALE
    if fresh:
        _say(0.1, "installing packages")
        try:
            _apt(plan, 0.1, 0.8, "install", *plan.packages)
        except subprocess.CalledProcessError:
            fresh = False
    if not fresh:
        _say(0.02, "reading package lists")
        _apt(plan, 0.02, 0.1, "update")
        stamp.touch()
        _apt(plan, 0.1, 0.8, "install", *plan.packages)


def _apt(plan: Plan, low: float, high: float, *arguments: str) -> None:
    """Run apt-get, its status lines (`dlstatus:N:PERCENT:WORDS`, `pmstatus:…`) turned into progress."""
    reader, writer = os.pipe()
    command = ["apt-get", "-y", "-q", "-o", f"APT::Status-Fd={writer}", *arguments]
    with subprocess.Popen(
        ["chroot", plan.mount, *command],
        stdin=subprocess.DEVNULL,
        env={**_environment(), "APT_CONFIG": "/run/pcloud-apt.conf"},
        pass_fds=(writer, *_held()),
    ) as process:
        os.close(writer)
        with os.fdopen(reader, errors="replace") as status:
            for line in status:
                kind, _, rest = line.rstrip().partition(":")
                fields = rest.split(":", 2)
                if kind in ("dlstatus", "pmstatus") and len(fields) == 3:
                    share = float(fields[1]) / 100
                    half = (high - low) / 2
                    start = low if kind == "dlstatus" else low + half
                    _say(start + half * share, fields[2])
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _write(root: str, file: ImageFile) -> None:
    """Write a file inside the image: by a program in it, so that links in the image can not lead outside."""
    script = 'set -e; mkdir -p -- "${1%/*}/"; cat > "$1"; chown -- "$3" "$1"; chmod -- "$2" "$1"'
    command = ("sh", "-c", script, "sh", file.path, f"{file.mode & 0o7777:o}", file.owner)
    _chroot(root, command, stdin=file.content.encode())


def _chroot(root: str, command: tuple[str, ...], *, stdin: bytes | None = None, check: bool = True) -> None:
    sys.stdout.flush()
    given: dict[str, Any] = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    subprocess.run(["chroot", root, *command], check=check, env=_environment(), pass_fds=_held(), **given)


def _held() -> tuple[int, ...]:
    """The descriptor of the lock on what we work on: programs that outlive us for a moment hold it for as long."""
    return (int(os.environ[LOCK]),)


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "SYSTEMD_OFFLINE": "1",
    }


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _tidy(plan: Plan) -> None:
    """Take out what packages made that must differ between guests."""
    for pattern in ("etc/ssh/ssh_host_*", "var/log/apt/*", "var/log/dpkg.log", "var/cache/apt/*.bin"):
        for file in Path(plan.layer).glob(pattern):
            if file.is_file() and not file.is_symlink():
                Path(plan.mount, file.relative_to(plan.layer)).unlink()
    machine_id = Path(plan.mount, "etc/machine-id")
    if machine_id.read_bytes():
        machine_id.write_bytes(b"")


if __name__ == "__main__":
    sys.exit(main())
