"""The run-time files that a managed systemd service gets.

Owns: `/run/systemd/system/UNIT.d/99-pcloud.conf` (systemd's own `Restart=` off, since two masters would fight over the
service; parameters as environment) and `/run/pcloud/resources/NAME.env`. Writes files, talks to nobody.
"""

from __future__ import annotations

import os

from pcloud.agent.programs import is_variable
from pcloud.wire.messages import escape

DROP_INS = "/run/systemd/system"
ENVIRONMENTS = "/run/pcloud/resources"
ENVIRONMENT_NAME = "pcloud_environment"
"""Parameter that names the environment file (NAME of `/run/pcloud/resources/NAME.env`); the resource's id by default."""


def environment_lines(parameters: dict[str, str]) -> str:
    """Return parameters as systemd reads them from an environment file; names that are no variable names are left out."""
    lines = []
    for name, value in sorted(parameters.items()):
        if name.startswith("CRM_meta_") or name in (ENVIRONMENT_NAME, "crm_feature_set") or not is_variable(name):
            continue
        for character in '\\"$`':
            value = value.replace(character, "\\" + character)
        lines.append(f'{name}="{value}"\n')
    return "".join(lines)


def drop_in_path(unit: str) -> str:
    """Return the path of a managed service's drop-in."""
    return f"{DROP_INS}/{unit}.d/99-pcloud.conf"


_ORDER = "[Unit]\nBefore=pcloud-remoted.service\n\n"


def drop_in(resource_id: str) -> str:
    """Return the drop-in's text for a service. By its order the agent ends before what it manages when the guest does."""
    return (
        "# Written by pcloud-remoted for as long as it manages this service.\n"
        f"{_ORDER}"
        f"[Service]\nRestart=no\nEnvironmentFile=-{ENVIRONMENTS}/{resource_id}.env\n"
    )


def _write(path: str, text: str, mode: int) -> bool:
    """Write a file if its text differs; return whether it did."""
    try:
        with open(path, encoding="utf-8") as old:
            if old.read() == text:
                return False
    except (OSError, ValueError):
        pass  # absent or damaged: written anew
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    made = path + ".new"
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        os.write(fd, text.encode())
    finally:
        os.close(fd)
    os.rename(made, path)
    return True


def metadata(unit: str) -> str:
    """Return OCF meta-data for a unit."""
    name = escape(unit[: -len(".service")] if unit.endswith(".service") else unit)
    return (
        f'<?xml version="1.0"?>\n<resource-agent name="{name}" version="0.1">\n  <version>1.1</version>\n'
        f'  <longdesc lang="en">systemd unit {name}</longdesc>\n'
        f'  <shortdesc lang="en">systemd unit file for {name}</shortdesc>\n'
        '  <parameters/>\n  <actions>\n    <action name="start" timeout="100"/>\n    <action name="stop" timeout="100"/>\n'
        '    <action name="status" timeout="100"/>\n    <action name="monitor" timeout="100" interval="60"/>\n'
        '    <action name="meta-data" timeout="5"/>\n  </actions>\n  <special tag="systemd"/>\n</resource-agent>\n'
    )


def is_file_name(name: str) -> bool:
    """Return whether a name from outside may become part of a path here."""
    return bool(name) and not name.startswith(".") and not set(name) & set("/\n%\0") and len(name) < 200


def write_files(resource_id: str, unit: str, parameters: dict[str, str] | None) -> bool:
    """Write a service's run-time files; without parameters (a service that ran before we came) only where there are none
    yet. Return whether systemd must read its configuration again. OSError, ValueError (a name that is none)."""
    name = resource_id if parameters is None else parameters.get(ENVIRONMENT_NAME, resource_id)
    if not is_file_name(name) or not is_file_name(unit):
        raise ValueError(f"{name!r} of {unit!r} can not name a file")
    path = drop_in_path(unit)
    if parameters is not None:
        _write(f"{ENVIRONMENTS}/{name}.env", environment_lines(parameters), 0o600)
    elif os.path.exists(path):
        return False
    return _write(path, drop_in(name), 0o644)


def remove_order(unit: str) -> bool:
    """Take the order out of a service's drop-in; return whether systemd must read its configuration again. OSError."""
    path = drop_in_path(unit)
    if not is_file_name(unit) or not os.path.exists(path):
        return False
    with open(path, encoding="utf-8") as held:
        text = held.read()
    return _write(path, text.replace(_ORDER, ""), 0o644)


def remove_files(resource_id: str, unit: str) -> bool:
    """Remove what `write_files` wrote; return whether there was a drop-in."""
    if not is_file_name(unit):
        return False
    if is_file_name(resource_id):
        try:
            os.unlink(f"{ENVIRONMENTS}/{resource_id}.env")
        except OSError:
            pass  # it never had parameters
    try:
        os.unlink(drop_in_path(unit))
    except OSError:
        return False
    try:
        os.rmdir(f"{DROP_INS}/{unit}.d")
    except OSError:
        pass  # somebody else's drop-in is beside it
    return True
