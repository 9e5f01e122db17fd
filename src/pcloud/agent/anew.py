"""The agent's start as a script: one that compiled its modules begins anew.

The first start in a guest, or after an upgrade, compiles every module, and a process that has compiled keeps three quarters
of a megabyte for good. So that start begins again, once, in the same process, when the compiled modules are on disk.
"""

from __future__ import annotations

import os
import sys

_MARK = "PCLOUD_BEGUN_ANEW"


def main() -> int:
    """Run the command; return its exit code."""
    before = _compiled()
    from pcloud.agent.__main__ import main as run

    if not os.environ.pop(_MARK, "") and _compiled() != before and sys.executable:
        # The modules that are imported late.
        import pcloud.agent.dispatch
        import pcloud.agent.relay
        import pcloud.agent.units
        import pcloud.wire.gnutls  # noqa: F401

        os.environ[_MARK] = "1"
        again = getattr(sys, "orig_argv", [sys.executable, "-I", "-S", "-OO", *sys.argv])
        os.execv(sys.executable, again)  # noqa: S606 - no shell is wanted
    return run()


def _compiled() -> int:
    """Return when `__main__` was compiled for this interpreter; 0 for never."""
    level = f".opt-{sys.flags.optimize}" if sys.flags.optimize else ""
    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        return os.stat(f"{folder}/__pycache__/__main__.{sys.implementation.cache_tag}{level}.pyc").st_mtime_ns
    except OSError:
        return 0
