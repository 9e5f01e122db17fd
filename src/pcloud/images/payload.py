"""What of this package goes into a guest: the agent, its wire format, its unit file and resource agents.

Read from the installed package; a checkout keeps the unit file under `packaging/`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

import pcloud
from pcloud.model.errors import Unavailable

TARGET = "/usr/lib/pcloud"
OCF_TARGET = "/usr/lib/ocf/resource.d/pcloud"
UNIT = "pcloud-remoted.service"


class PayloadFile(msgspec.Struct, frozen=True):
    """One file to be written into an image."""

    path: str
    source: str
    mode: int


def agent_files() -> list[PayloadFile]:
    """Return the files of the agent with their places in the guest. Unavailable when the package has no agent."""
    package = Path(pcloud.__file__).parent
    files = [PayloadFile(f"{TARGET}/pcloud/__init__.py", str(package / "__init__.py"), 0o644)]
    for room in ("wire", "agent"):
        for source in sorted((package / room).rglob("*")):
            inner = source.relative_to(package)
            if not source.is_file() or "__pycache__" in inner.parts or source.suffix == ".service":
                continue
            if inner.parts[:2] == ("agent", "ocf"):
                files.append(PayloadFile(f"{OCF_TARGET}/{'/'.join(inner.parts[2:])}", str(source), 0o755))
            else:
                files.append(PayloadFile(f"{TARGET}/pcloud/{inner}", str(source), 0o644))
    unit = next(
        (p for p in (package / "agent" / UNIT, package.parents[1] / "packaging" / "systemd" / UNIT) if p.is_file()),
        None,
    )
    if unit is None or not (package / "agent" / "__main__.py").is_file():
        raise Unavailable.of(
            "AGENT_MISSING", "this installation has no agent to put into guests", hint="install pacemaker-cloud anew"
        )
    files.append(PayloadFile(f"/etc/systemd/system/{UNIT}", str(unit), 0o644))
    return files


def payload_for(agent: str) -> list[PayloadFile]:
    """Return what goes into a guest with that kind of agent: Pacemaker's own needs our resource agents only, and a guest
    that is watched through its sshd gets nothing of ours."""
    if not agent:
        return []
    files = agent_files()
    return files if agent == "pcloud" else [file for file in files if file.path.startswith(OCF_TARGET)]


def payload_digest(files: list[PayloadFile]) -> str:
    """Return a digest of the files' places, modes and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.mode:o}\0".encode())
        digest.update(hashlib.sha256(Path(file.source).read_bytes()).digest())
    return digest.hexdigest()[:16]
