"""The version of this installation."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """Return the distribution's version; `0` when it is not installed but run from a folder."""
    try:
        return metadata.version("pacemaker-cloud")
    except metadata.PackageNotFoundError:
        return "0"
