"""Building a JEOS root file system with mmdebstrap.

The caller holds the suite's lock (`store`). Packages are kept in `cache/`, so a build that was interrupted, and the
next one, downloads nothing twice.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from pcloud.images import apt, sandbox
from pcloud.images.definitions import ARCHITECTURES, EXCLUDED, INCLUDED, JeosDefinition
from pcloud.images.sandbox import Progress
from pcloud.model.errors import Unavailable

SSHD = """# Written by pacemaker-cloud: keys only.
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
"""


class BuildProgress:
    """Turns mmdebstrap's verbose output into a fraction: apt says how many packages, dpkg names each as it goes."""

    PHASES = (
        ("I: running apt-get update", 0.01, "reading package lists"),
        ("I: downloading packages with apt", 0.05, "downloading the base system"),
        ("I: extracting archives", 0.15, "unpacking the base system"),
        ("I: installing essential packages", 0.20, "installing the base system"),
        ("I: installing remaining packages", 0.45, "installing packages"),
        ("I: cleaning package lists", 0.95, "cleaning up"),
    )

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._phase = -1
        self._total = 0
        self._seen = 0
        self._fraction = 0.0

    def line(self, line: str) -> None:
        """Take one line of output."""
        for index, (prefix, fraction, words) in enumerate(self.PHASES):
            if index > self._phase and line.startswith(prefix):
                self._phase, self._seen = index, 0
                self._tell(fraction, words)
                return
        newly = re.search(r"(\d+) newly installed", line)
        if newly:
            self._total = int(newly[1])
        # A package is seen three times at most: fetched, unpacked, set up.
        step = re.match(r"(Get:\d+ |Unpacking |Setting up )\S*", line)
        if step and self._total and 0 <= self._phase < len(self.PHASES) - 1:
            self._seen += 1
            start, end = self.PHASES[self._phase][1], self.PHASES[self._phase + 1][1]
            share = min(1.0, self._seen / (3 * self._total))
            name = re.match(r"(?:Unpacking|Setting up) \S+", line)
            self._tell(start + (end - start) * share, name[0] if name else self.PHASES[self._phase][2])

    def _tell(self, fraction: float, words: str) -> None:
        self._fraction = max(self._fraction, fraction)
        self._report(self._fraction, words)


async def build_rootfs(
    definition: JeosDefinition,
    arch: str,
    target: Path,
    cache: Path,
    *,
    progress: Progress,
    log: Callable[[bytes], object],
    lock: int,
) -> None:
    """Build a root file system in the folder `target`, which must not exist. BuildFailed or Unavailable when it fails.

    `lock` is the descriptor of the suite's lock.
    """
    if shutil.which("mmdebstrap") is None:
        raise Unavailable.of("PROGRAM_MISSING", "mmdebstrap is not installed", hint="apt-get install mmdebstrap")
    progress(0.0, f"looking for a mirror of {definition.title}")
    lines = await apt.source_lines(definition)
    archives = cache / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    command = [
        "mmdebstrap", "--verbose", "--variant=minbase", "--mode=root", "--format=directory",
        f"--architectures={ARCHITECTURES[arch]}",
        f"--include={','.join(definition.packages)}",
        *(f"--keyring={ring}" for ring in definition.keyrings),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        *(f"--dpkgopt=path-include={pattern}" for pattern in INCLUDED),
        "--dpkgopt=force-unsafe-io",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--aptopt={line.rstrip(';')}" for line in await apt.settings()),
        # The package cache is bound in while packages are installed; mmdebstrap must not empty it.
        "--skip=essential/unlink",
        "--skip=cleanup/apt/cache",
        '--setup-hook=mkdir -p "$1/var/cache/apt/archives" && mount --bind "$PCLOUD_ARCHIVES" "$1/var/cache/apt/archives"',
        '--customize-hook=umount "$1/var/cache/apt/archives"',
        definition.suite, str(target), "-",
    ]  # fmt: skip
    parser = BuildProgress(progress)
    await sandbox.run(
        command,
        stdin=("\n".join(lines) + "\n").encode(),
        environment={"PCLOUD_ARCHIVES": str(archives)},
        on_line=parser.line,
        log=log,
        what=f"building {definition.name}",
        lock=lock,
    )


def finish_rootfs(definition: JeosDefinition, rootfs: Path) -> None:
    """Make a built root file system fit for many guests: no keys and names of its own, no units that guests do not need."""
    for pattern in ("etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/log/*.log", "var/log/apt/*", "etc/hostname"):
        for file in rootfs.glob(pattern):
            file.unlink()
    (rootfs / "etc/machine-id").write_bytes(b"")
    resolv = rootfs / "etc/resolv.conf"
    if not resolv.is_symlink():
        resolv.write_bytes(b"")  # mmdebstrap leaves the host's
    sshd = rootfs / "etc/ssh/sshd_config.d"
    sshd.mkdir(parents=True, exist_ok=True)
    (sshd / "pcloud.conf").write_text(SSHD)
    units = rootfs / "etc/systemd/system"
    for unit in definition.mask:
        mask = units / unit
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    shadow = rootfs / "etc/shadow"
    # Debian's root has an empty ("*") password field here already; "*" keeps passwords off and keys usable.
    shadow.write_text(re.sub(r"(?m)^root:[^:]*:", "root:*:", shadow.read_text()))
