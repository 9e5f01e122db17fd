"""Starts the agent without `runpy` and `site`, from wherever its tree was copied to: `python3 -I -S -OO …/boot.py`.

The first start in a guest, or after an upgrade, compiles every module, and a process that has compiled keeps three quarters
of a megabyte for good. So that start begins anew, once, in the same process, when the compiled modules are on disk.
"""

from __future__ import annotations

import os
import sys


def _compiled() -> int:
    """Return when a module was compiled for this interpreter; 0 for never."""
    level = f".opt-{sys.flags.optimize}" if sys.flags.optimize else ""
    try:
        return os.stat(f"{_HERE}/__pycache__/dispatch.{sys.implementation.cache_tag}{level}.pyc").st_mtime_ns
    except OSError:
        return 0


_HERE = os.path.dirname(os.path.abspath(__file__))
_BEGUN_ANEW = "PCLOUD_BEGUN_ANEW"
_before = _compiled()

sys.path.insert(0, os.path.dirname(os.path.dirname(_HERE)))

# ruff: noqa: E402 - what is compiled must be seen before
import pcloud.agent.dispatch
import pcloud.wire.gnutls  # noqa: F401 - the modules that are imported late
from pcloud.agent.__main__ import main

if not os.environ.pop(_BEGUN_ANEW, "") and _compiled() != _before and sys.executable:
    os.environ[_BEGUN_ANEW] = "1"
    _again = getattr(sys, "orig_argv", [sys.executable, "-I", "-S", "-OO", *sys.argv])
    os.execv(sys.executable, _again)  # noqa: S606 - no shell is wanted

sys.exit(main())
