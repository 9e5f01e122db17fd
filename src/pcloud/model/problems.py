"""The collector of everything that is wrong in one document, with the position of each path.

Used by one reader for one document at a time; not shared between tasks.
"""

from __future__ import annotations

from collections.abc import Mapping

from pcloud.model.errors import InvalidDocument, Problem

Position = tuple[int, int]
"""Line and column, 1-based; 0 when not known."""

MAX_PROBLEMS = 100
"""More than a person mends in one round; a hostile document must not fill the memory with complaints."""
MAX_QUOTED = 80


def quote(text: str) -> str:
    """A user's text as a message may show it: one line, printable, not long."""
    shown = text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…"
    return "'" + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown) + "'"


def join(path: str, key: str | int) -> str:
    """Extend a path by one step; a key that a user made up is shortened and made printable."""
    step = str(key) if isinstance(key, int) or (len(key) <= MAX_QUOTED and key.isprintable()) else quote(key)[1:-1]
    return f"{path}.{step}" if path else step


def position_of(path: str, positions: Mapping[str, Position]) -> Position:
    """Position of a path, or of its nearest ancestor that has one; (0, 0) when none has."""
    while path:
        found = positions.get(path)
        if found:
            return found
        path = path.rpartition(".")[0]
    return positions.get("", (0, 0))


class Problems:
    """Collects problems; `raise_if_any` ends the reading."""

    def __init__(self, file: str = "") -> None:
        self.file = file
        self.positions: dict[str, Position] = {}
        """Path → where it stands, filled in while a document is read."""
        self.found: list[Problem] = []
        self._more = 0

    def add(self, code: str, message: str, path: str = "", *, at: Position | None = None, hint: str = "") -> None:
        """Note one problem, at the given position or at that of its path."""
        if len(self.found) >= MAX_PROBLEMS:
            self._more += 1
            return
        line, column = at if at is not None else position_of(path, self.positions)
        self.found.append(
            Problem(code=code, message=message, path=path, file=self.file, line=line, column=column, hint=hint)
        )

    def extend(self, problems: list[Problem]) -> None:
        """Note problems found elsewhere, such as by the validation; their positions come from their paths."""
        for problem in problems:
            self.add(problem.code, problem.message, problem.path, hint=problem.hint)

    def raise_if_any(self) -> None:
        """Raise InvalidDocument with everything found, in the order of the document."""
        if not self.found:
            return
        ordered = sorted(self.found, key=lambda problem: (problem.line, problem.column))
        if self._more:
            message = f"there are {self._more} more problems"
            ordered.append(Problem(code="TOO_MANY_PROBLEMS", message=message, file=self.file))
        raise InvalidDocument.from_problems(ordered)

    def stop(
        self, code: str, message: str, *, at: Position = (0, 0), hint: str = "", path: str = ""
    ) -> InvalidDocument:
        """The error for a problem after which reading on makes no sense, together with what was found before."""
        line, column = at
        last = Problem(code=code, message=message, path=path, file=self.file, line=line, column=column, hint=hint)
        return InvalidDocument.from_problems([*self.found, last])
