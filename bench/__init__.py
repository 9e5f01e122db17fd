"""Measurements of what the design promises, as ratios against a peer that runs in the same session.

Every module of this package that has a function `run() -> Iterator[Row]` is a benchmark, named like the module;
`python -m bench [NAME]` prints each row as one JSON object a line.
"""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One measurement. Less is better: `ratio` is ours ÷ peer."""

    name: str
    ours: float
    peer: float
    """In the same unit as `ours`."""
    ratio: float
    budget: float
    """The greatest ratio that the design allows."""
    met: bool

    @classmethod
    def of(cls, name: str, ours: float, peer: float, budget: float) -> Row:
        """Make a row; numbers are rounded to four significant digits, `met` is judged before."""
        ratio = ours / peer
        return cls(name, _round(ours), _round(peer), _round(ratio), budget, ratio <= budget)


def _round(number: float) -> float:
    return float(f"{number:.4g}")
