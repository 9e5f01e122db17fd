"""What `doctor` says about OpenStack: the library and where credentials would come from. Looks only; asks no cloud."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from pcloud.model.check import Check

FILES = ("clouds.yaml", "~/.config/openstack/clouds.yaml", "/etc/openstack/clouds.yaml")


def checks() -> list[Check]:
    """Return what this machine can and can not do with OpenStack."""
    library = importlib.util.find_spec("openstack") is not None
    hint = "" if library else "pip install 'pacemaker-cloud[openstack]'"
    found = [Check(check="openstack: openstacksdk", state="ok" if library else "missing", hint=hint)]
    file = next((path for path in FILES if Path(path).expanduser().is_file()), "")
    detail = file or next(
        (name for name in ("OS_CLIENT_CONFIG_FILE", "OS_CLOUD", "OS_AUTH_URL") if os.environ.get(name)), ""
    )
    hint = "" if detail else "write ~/.config/openstack/clouds.yaml, or source your cloud's openrc before pcloud up"
    found.append(Check(check="openstack: credentials", state="ok" if detail else "warning", detail=detail, hint=hint))
    return found
