"""Compile the binding to Pacemaker's scheduler: `python src/pcloud/scheduler/build.py`.

Writes `_pacemaker.abi3.so` beside this file. Needs a C compiler and the headers of Pacemaker (Debian: `pacemaker-dev`);
where they are missing it says so and ends with status 0, because the engine then works with `crm_simulate`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
MODULE = "pcloud.scheduler._pacemaker"
TARGET = HERE / "_pacemaker.abi3.so"
"""Uses Python's stable interface only, so that one build serves every Python from the one that built it on."""
PACKAGES = ["libpacemaker", "pacemaker-pe_status", "pacemaker", "libxml-2.0", "glib-2.0", "libqb"]
"""Names by which pkg-config knows what the C code includes and links with."""

DECLARATIONS = """
int pcloud_follow(int parent);
int pcloud_init(void);
const char *pcloud_version(void);
int pcloud_schedule(const char *text, size_t length, int options, char **answer, size_t *size);
void pcloud_free(char *answer);
"""


def flags() -> tuple[list[str], list[str]]:
    """Return the compiler's and the linker's flags; CalledProcessError or FileNotFoundError when pkg-config can not tell."""

    def ask(option: str) -> list[str]:
        asked = subprocess.run(["pkg-config", option, *PACKAGES], check=True, capture_output=True, text=True)
        return asked.stdout.split()

    return ask("--cflags"), ask("--libs")


def build(folder: Path = HERE) -> Path:
    """Compile, put the library into the folder (beside this file) in one step, and return its path."""
    compile_flags, link_flags = flags()
    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    ffi.set_source(MODULE, DECLARATIONS)
    with tempfile.TemporaryDirectory(prefix="pcloud-build-") as work:
        glue = Path(work, "glue.c")
        with contextlib.redirect_stdout(None):
            ffi.emit_c_code(str(glue))  # cffi's own compile step would want setuptools on Python 3.12 and later
        made = Path(work, TARGET.name)
        command = [
            os.environ.get("CC") or shutil.which("cc") or "gcc",
            *("-shared", "-fPIC", "-O2", "-Wall", "-Wl,--as-needed", "-I", sysconfig.get_path("include")),
            *compile_flags,
            *("-o", str(made), str(HERE / "pacemaker.c"), str(glue)),
            *link_flags,
        ]
        subprocess.run(command, check=True)
        target = folder / TARGET.name
        partial = target.with_suffix(".partial")
        shutil.copyfile(made, partial)
        partial.replace(target)
    return target


def main() -> int:
    """Build, or say on stderr what is missing."""
    try:
        if shutil.which("cc") is None and shutil.which("gcc") is None:
            raise FileNotFoundError("no C compiler")
        flags()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        sys.stderr.write(f"the scheduler's binding is not built, crm_simulate will be used: {detail.strip()}\n")
        return 0
    build()
    return 0


if __name__ == "__main__":
    sys.exit(main())
