"""`python -m bench [NAME …]`: run all benchmarks, or those named. Progress goes to stderr, rows to stdout."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench import Row

HERE = Path(__file__).resolve().parent


def benchmarks() -> dict[str, Callable[[], Iterator[Row]]]:
    """Return the benchmarks by name."""
    found: dict[str, Callable[[], Iterator[Row]]] = {}
    for module in sorted(pkgutil.iter_modules([str(HERE)]), key=lambda each: each.name):
        if not module.name.startswith("_"):
            run = getattr(importlib.import_module(f"bench.{module.name}"), "run", None)
            if run is not None:
                found[module.name] = run
    return found


def main(names: list[str]) -> int:
    """Run; 2 when a name is unknown, else 0, whether budgets are met or not: that is what the rows say."""
    known = benchmarks()
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names or known:
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        begun = time.monotonic()
        for row in known[name]():
            print(msgspec.json.encode(row).decode(), flush=True)
        print(f"bench: {name} took {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
