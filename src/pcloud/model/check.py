"""One line of `doctor`: something this machine can or can not do."""

from __future__ import annotations

import msgspec


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, what came of it, how to mend it."""

    check: str
    state: str
    """`ok`, `warning` (works, but not well or not all) or `missing`."""
    detail: str = ""
    hint: str = ""
