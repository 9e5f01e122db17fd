"""The one tree of errors that users can cause.

Every problem carries a code that never changes its meaning, says what is wrong, where, and what to do next.
A reader collects *all* problems of a document before it raises, so that one round mends the whole document.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong in something a user gave us."""

    code: str
    """Stable identifier, upper case with underscores, such as `UNKNOWN_REFERENCE`."""
    message: str
    """What is wrong, as a sentence without a final full stop."""
    path: str = ""
    """Where inside the document, such as `assemblies.web.resources.httpd.monitor`."""
    file: str = ""
    line: int = 0
    """1-based; 0 when the position is not known."""
    column: int = 0
    hint: str = ""
    """What to do next."""

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line or "", self.column or "") if part)
        text = f"{where + ': ' if where else ''}{self.path + ': ' if self.path else ''}{self.message} [{self.code}]"
        return f"{text}\n    {self.hint}" if self.hint else text


class PcloudError(Exception):
    """Base of every error of ours that a user may see; `problems` is never empty."""

    status = 400
    """The HTTP status under which the API reports it."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems: tuple[Problem, ...] = problems

    @property
    def code(self) -> str:
        """Code of the first problem."""
        return self.problems[0].code

    @classmethod
    def of(cls, code: str, message: str, *, hint: str = "", path: str = "") -> PcloudError:
        """Make an error of a single problem."""
        return cls(Problem(code=code, message=message, hint=hint, path=path))


class InvalidDocument(PcloudError):
    """A manifest, XML document or template was refused; nothing of it was applied."""

    status = 422

    @classmethod
    def from_problems(cls, problems: Iterable[Problem]) -> InvalidDocument:
        """Make the error from everything that a reader collected."""
        return cls(*problems)


class NotFound(PcloudError):
    """The thing a user named does not exist."""

    status = 404


class Conflict(PcloudError):
    """The thing exists, but its state does not allow what was asked."""

    status = 409


class Unavailable(PcloudError):
    """Something this needs (an infrastructure, a program, a daemon) does not answer or is not installed."""

    status = 503
