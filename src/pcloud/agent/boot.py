"""Starts the agent without `runpy` and `site`, from wherever its tree was copied to: `python3 -I -S -OO …/boot.py`.

The first start in a guest compiles every module, and a process that has compiled keeps three quarters of a megabyte for
good. So that start begins anew, in the same process, once the compiled modules are on disk.
"""

from __future__ import annotations

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_LEVEL = f".opt-{sys.flags.optimize}" if sys.flags.optimize else ""
_COMPILED = f"{_HERE}/__pycache__/dispatch.{sys.implementation.cache_tag}{_LEVEL}.pyc"

sys.path.insert(0, os.path.dirname(os.path.dirname(_HERE)))

_first = not os.path.exists(_COMPILED)

from pcloud.agent.__main__ import main  # noqa: E402 - what is there must be seen before

if _first:
    import pcloud.agent.dispatch
    import pcloud.wire.gnutls  # noqa: F401 - imported late, compiled here

    if sys.executable and os.path.exists(_COMPILED):  # else nothing can be written here: once is enough
        _again = getattr(sys, "orig_argv", [sys.executable, "-I", "-S", "-OO", *sys.argv])
        os.execv(sys.executable, _again)  # noqa: S606 - no shell is wanted

sys.exit(main())
