"""Shared by the two template readers: checks of shape that collect every problem, and the entry point `read_template`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pcloud.model.errors import InvalidDocument, Problem
from pcloud.stacks.documents import LIMITS, Document, Limits, Path, document_of, dotted, read_document
from pcloud.stacks.template import Template

MAX_RESOURCES = 5000
"""Resources of one template, after loops are expanded. CloudFormation allows 500, Heat 1000 by default."""
MAX_PARAMETERS = 500
MAX_OUTPUTS = 500


class Reader:
    """Collects problems while a document is taken apart."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def problem(self, code: str, message: str, path: Path, hint: str = "") -> None:
        """Note one thing that is wrong."""
        line, column = self.document.locate(path)
        self.problems.append(
            Problem(
                code=code,
                message=message,
                path=dotted(path),
                file=self.document.file,
                line=line,
                column=column,
                hint=hint,
            )
        )

    def mapping(self, value: Any, path: Path) -> dict[str, Any]:
        """Return a map; note a problem (and return an empty one) when it is something else."""
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        self.problem("WRONG_TYPE", f"this must be a map, not {kind(value)}", path)
        return {}

    def text(self, value: Any, path: Path) -> str:
        """Return text; note a problem when it is a list or map."""
        if value is None:
            return ""
        if isinstance(value, dict | list):
            self.problem("WRONG_TYPE", f"this must be text, not {kind(value)}", path)
            return ""
        return value if isinstance(value, str) else str(value)

    def boolean(self, value: Any, path: Path) -> bool:
        """Return a truth value written as true/false or as text of either."""
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        self.problem("WRONG_TYPE", "this must be true or false", path)
        return False

    def keys(self, value: Mapping[str, Any], known: frozenset[str], path: Path) -> None:
        """Note every key that is not known."""
        for key in value:
            if key not in known:
                self.problem(
                    "UNKNOWN_KEY", f"'{key}' is not known here", (*path, key), f"known are: {', '.join(sorted(known))}"
                )

    def finish(self) -> None:
        """Raise InvalidDocument when anything was noted."""
        if self.problems:
            raise InvalidDocument.from_problems(self.problems)


def kind(value: Any) -> str:
    """Return what a value is, in words."""
    if value is None:
        return "nothing"
    for types, word in (
        (dict, "a map"),
        (list, "a list"),
        (bool, "a truth value"),
        ((int, float), "a number"),
        (str, "text"),
    ):
        if isinstance(value, types):
            return word
    return type(value).__name__


NAME = re.compile(r"[A-Za-z0-9]{1,255}\Z")
HEAT_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}\Z")
"""Name of a resource of Heat's types in a CloudFormation template: only Heat ever reads one, and takes such names."""
HOT_NAME = re.compile(r"[^/\x00-\x1f]{1,255}\Z")


def read_template(
    source: str | bytes | dict[str, Any],
    *,
    given: Mapping[str, Any] | None = None,
    file: str = "",
    limits: Limits = LIMITS,
) -> Template:
    """Read a template of either language from text or from parsed JSON; InvalidDocument lists all problems of its shape.

    `given` are parameters' values: loops of CloudFormation's language extensions may run over them.
    """
    from pcloud.stacks.cloudformation import read_cloudformation
    from pcloud.stacks.hot import read_hot

    if isinstance(source, dict):
        document = document_of(source, file=file, limits=limits)
    else:
        document = read_document(source, file=file, limits=limits)
    data = document.data
    reader = Reader(document)
    if not isinstance(data, dict):
        reader.problem("NOT_A_TEMPLATE", f"a template is a map, not {kind(data)}", ())
        reader.finish()
    if "heat_template_version" in data:
        return read_hot(document)
    if "AWSTemplateFormatVersion" in data or "HeatTemplateFormatVersion" in data or "Resources" in data:
        return read_cloudformation(document, given or {})
    reader.problem(
        "NOT_A_TEMPLATE",
        "the text is neither a CloudFormation nor a Heat template",
        (),
        "a CloudFormation template has 'Resources', a Heat template 'heat_template_version'",
    )
    reader.finish()
    raise AssertionError("finish raises")
