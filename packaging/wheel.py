"""Build hook of the wheel: compiles the binding to Pacemaker's scheduler into it.

A wheel with the binding is of this kind of machine, for Python 3.11 and later (its stable interface), and of the releases of
Pacemaker's library that the compiler saw; where that library is another one the engine asks `crm_simulate`. Without a
compiler or Pacemaker's headers the wheel is a pure one. An editable install compiles nothing: `make setup` does.
"""

from __future__ import annotations

import runpy
import shutil
import sysconfig
import tempfile
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Binding(BuildHookInterface[Any]):
    """Adds `_pacemaker.abi3.so` to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell the builder where the result belongs."""
        self._made: Path | None = None
        if version != "standard":
            return
        build = runpy.run_path(str(Path(self.root, "src", "pcloud", "scheduler", "build.py")))
        try:
            build["flags"]()
        except (CalledProcessError, FileNotFoundError) as error:
            self.app.display_warning(f"the scheduler's binding is not in the wheel, crm_simulate will be used: {error}")
            return
        self._made = Path(tempfile.mkdtemp(prefix="pcloud-wheel-"))
        made = build["build"](self._made)
        build_data["force_include"][str(made)] = f"pcloud/scheduler/{made.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled."""
        if self._made is not None:
            shutil.rmtree(self._made)
