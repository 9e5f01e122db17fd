"""What a template *is*, whichever language it was written in: the structs that readers fill and everything else uses.

Pure. A Template is syntactically whole (sections have the right shape, names are unique); `validation` checks what it says.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from pcloud.model.errors import Problem
from pcloud.stacks.documents import Document, Path, dotted

UNSET: Any = msgspec.UNSET
LANGUAGE_EXTENSIONS = "AWS::LanguageExtensions"


class Dialect(StrEnum):
    """The template languages."""

    CFN = "cfn"
    HOT = "hot"


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """One rule for a parameter's value."""

    kind: str
    """`length`, `range`, `modulo`, `allowed_values`, `allowed_pattern`, `custom`."""
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[Any, ...] = ()
    pattern: str = ""
    step: float = 0
    offset: float = 0
    description: str = ""


class ParameterSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter as the template declares it."""

    name: str
    type: str
    """`string`, `number`, `boolean`, `list` (of strings), `numbers` (list) or `json`."""
    declared_type: str
    """As written: `String`, `List<Number>`, `AWS::EC2::KeyPair::KeyName`, `comma_delimited_list` …"""
    default: Any = UNSET
    description: str = ""
    label: str = ""
    hidden: bool = False
    """NoEcho / hidden: the value is never shown."""
    immutable: bool = False
    constraints: tuple[Constraint, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is UNSET


class ResourceDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A resource as the template declares it, functions unresolved."""

    name: str
    type: str
    properties: Any = {}
    metadata: Any = {}
    depends_on: Any = ()
    """Names, or (HOT 2021-04-16) expressions that give names."""
    condition: Any = None
    deletion_policy: Any = "Delete"
    """What becomes of the thing when it is deleted, in the template's words, or a function that gives one (`lifecycle`)."""
    update_replace_policy: Any = "Delete"
    creation_policy: Any = None
    update_policy: Any = None
    external_id: Any = None
    description: str = ""


class OutputDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """An output as the template declares it."""

    name: str
    value: Any
    description: str = ""
    condition: Any = None
    export: Any = None
    """Expression of the export's name; None when it is not exported."""


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A whole template."""

    dialect: Dialect
    version: str
    description: str = ""
    parameters: dict[str, ParameterSchema] = {}
    mappings: dict[str, Any] = {}
    conditions: dict[str, Any] = {}
    rules: dict[str, Any] = {}
    resources: dict[str, ResourceDefinition] = {}
    outputs: dict[str, OutputDefinition] = {}
    metadata: Any = {}
    transforms: tuple[str, ...] = ()
    parameter_groups: tuple[Any, ...] = ()
    document: Document

    def problem(self, code: str, message: str, path: Path, *, hint: str = "") -> Problem:
        """Make a problem of this template, with its position."""
        line, column = self.document.locate(path)
        return Problem(
            code=code,
            message=message,
            path=dotted(path),
            file=self.document.file,
            line=line,
            column=column,
            hint=hint,
        )

    def section(self, name: str) -> str:
        """Return a section's name in this template's language, such as `Resources` or `resources`."""
        return name.capitalize() if self.dialect is Dialect.CFN else name

    @property
    def properties_key(self) -> str:
        """`Properties` or `properties`."""
        return "Properties" if self.dialect is Dialect.CFN else "properties"
