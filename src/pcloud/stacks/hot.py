"""Reads Heat Orchestration Templates of every version from 2013-05-23 to 2021-04-16. Pure."""

from __future__ import annotations

import re
from typing import Any

from pcloud.stacks.documents import Document, Path
from pcloud.stacks.reading import HOT_NAME, MAX_OUTPUTS, MAX_PARAMETERS, MAX_RESOURCES, Reader
from pcloud.stacks.template import (
    UNSET,
    Constraint,
    Dialect,
    OutputDefinition,
    ParameterSchema,
    ResourceDefinition,
    Template,
)

VERSIONS = (
    "2013-05-23",
    "2014-10-16",
    "2015-04-30",
    "2015-10-15",
    "2016-04-08",
    "2016-10-14",
    "2017-02-24",
    "2017-09-01",
    "2018-03-02",
    "2018-08-31",
    "2021-04-16",
)
RELEASES = {
    "newton": "2016-10-14",
    "ocata": "2017-02-24",
    "pike": "2017-09-01",
    "queens": "2018-03-02",
    "rocky": "2018-08-31",
    "wallaby": "2021-04-16",
}
_SECTIONS = frozenset(
    ["heat_template_version", "description", "parameter_groups", "parameters", "resources", "outputs", "conditions"]
)
_RESOURCE_KEYS = frozenset(
    [
        "type",
        "properties",
        "metadata",
        "depends_on",
        "update_policy",
        "deletion_policy",
        "external_id",
        "condition",
        "description",
    ]
)
_PARAMETER_KEYS = frozenset(
    ["type", "label", "description", "default", "hidden", "constraints", "immutable", "tags", "schema"]
)
_TYPES = {
    "string": "string",
    "number": "number",
    "comma_delimited_list": "list",
    "json": "json",
    "boolean": "boolean",
}


def read_hot(document: Document) -> Template:
    """Take a HOT document apart; InvalidDocument lists all problems of its shape."""
    reader = Reader(document)
    data: dict[str, Any] = document.data
    reader.keys(data, _SECTIONS, ())
    written = str(data["heat_template_version"])
    version = RELEASES.get(written, written)
    if version not in VERSIONS:
        reader.problem(
            "UNKNOWN_VERSION",
            f"version '{written}' is not known",
            ("heat_template_version",),
            f"known are {', '.join(VERSIONS)}",
        )
    if "conditions" in data and version < "2016-10-14":
        reader.problem("TOO_OLD", "conditions came with version 2016-10-14", ("conditions",))
    groups = data.get("parameter_groups") or []
    if not isinstance(groups, list):
        reader.problem("WRONG_TYPE", "this must be a list", ("parameter_groups",))
        groups = []
    template = Template(
        dialect=Dialect.HOT,
        version=version,
        description=reader.text(data.get("description"), ("description",)),
        parameters=_parameters(reader, data),
        conditions=reader.mapping(data.get("conditions"), ("conditions",)),
        resources=_resources(reader, data, version),
        outputs=_outputs(reader, data),
        parameter_groups=tuple(groups),
        document=document,
    )
    reader.finish()
    return template


def _parameters(reader: Reader, data: dict[str, Any]) -> dict[str, ParameterSchema]:
    result: dict[str, ParameterSchema] = {}
    declared = reader.mapping(data.get("parameters"), ("parameters",))
    if len(declared) > MAX_PARAMETERS:
        reader.problem("TOO_MANY", f"more than {MAX_PARAMETERS} parameters", ("parameters",))
        return result
    for name, raw in declared.items():
        path: Path = ("parameters", name)
        body = reader.mapping(raw, path)
        reader.keys(body, _PARAMETER_KEYS, path)
        if not HOT_NAME.match(name):
            reader.problem("BAD_NAME", f"'{name}' is not a usable name", path)
        type_name = reader.text(body.get("type"), (*path, "type"))
        ours = _TYPES.get(type_name)
        if ours is None:
            reader.problem(
                "UNKNOWN_TYPE", f"the parameter type '{type_name}' is not known", (*path, "type"), ", ".join(_TYPES)
            )
        tags = body.get("tags") or []
        result[name] = ParameterSchema(
            name=name,
            type=ours or "string",
            declared_type=type_name,
            default=body.get("default", UNSET),
            description=reader.text(body.get("description"), (*path, "description")),
            label=reader.text(body.get("label"), (*path, "label")),
            hidden=reader.boolean(body.get("hidden", False), (*path, "hidden")),
            immutable=reader.boolean(body.get("immutable", False), (*path, "immutable")),
            constraints=tuple(_constraints(reader, body.get("constraints"), (*path, "constraints"))),
            tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (str(tags),),
        )
    return result


def _constraints(reader: Reader, raw: Any, path: Path) -> list[Constraint]:
    found: list[Constraint] = []
    if raw is None:
        return found
    if not isinstance(raw, list):
        reader.problem("WRONG_TYPE", "this must be a list", path)
        return found
    for index, item in enumerate(raw):
        where = (*path, index)
        body = reader.mapping(item, where)
        description = reader.text(body.get("description"), (*where, "description"))
        kinds = [key for key in body if key != "description"]
        if len(kinds) != 1:
            reader.problem("BAD_VALUE", "a constraint has one kind and a description", where)
            continue
        name, value = kinds[0], body[kinds[0]]
        inner: Path = (*where, name)
        if name in ("length", "range", "modulo"):
            limits = reader.mapping(value, inner)
            numbers: dict[str, float | None] = {}
            for key, given in limits.items():
                if isinstance(given, bool) or not isinstance(given, int | float | str) or not _is_number(given):
                    reader.problem("WRONG_TYPE", "this must be a number", (*inner, key))
                    continue
                numbers[key] = float(given)
            if name == "modulo":
                if not numbers.get("step"):
                    reader.problem("BAD_VALUE", "modulo needs a step other than 0", inner)
                    continue
                found.append(
                    Constraint(
                        kind=name,
                        step=numbers.get("step") or 1,
                        offset=numbers.get("offset") or 0,
                        description=description,
                    )
                )
            else:
                found.append(
                    Constraint(
                        kind=name, minimum=numbers.get("min"), maximum=numbers.get("max"), description=description
                    )
                )
        elif name == "allowed_values":
            if isinstance(value, list):
                found.append(Constraint(kind=name, values=tuple(value), description=description))
            else:
                reader.problem("WRONG_TYPE", "this must be a list", inner)
        elif name == "allowed_pattern":
            pattern = reader.text(value, inner)
            try:
                re.compile(pattern)
            except re.error as problem:
                reader.problem("BAD_PATTERN", f"not a regular expression: {problem}", inner)
            else:
                found.append(Constraint(kind=name, pattern=pattern, description=description))
        elif name == "custom_constraint":
            found.append(Constraint(kind="custom", pattern=reader.text(value, inner), description=description))
        else:
            reader.problem("UNKNOWN_KEY", f"the constraint '{name}' is not known", inner)
    return found


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _resources(reader: Reader, data: dict[str, Any], version: str) -> dict[str, ResourceDefinition]:
    result: dict[str, ResourceDefinition] = {}
    declared = reader.mapping(data.get("resources"), ("resources",))
    if len(declared) > MAX_RESOURCES:
        reader.problem("TOO_MANY", f"more than {MAX_RESOURCES} resources", ("resources",))
        return result
    for name, raw in declared.items():
        path: Path = ("resources", name)
        body = reader.mapping(raw, path)
        reader.keys(body, _RESOURCE_KEYS, path)
        if not HOT_NAME.match(name):
            reader.problem("BAD_NAME", f"'{name}' is not a usable name", path)
        if not isinstance(body.get("type"), str):
            reader.problem("NO_TYPE", "a resource needs a 'type'", path)
            continue
        depends = body.get("depends_on") or []
        depends = depends if isinstance(depends, list) else [depends]
        if version < "2021-04-16" and not all(isinstance(item, str) for item in depends):
            reader.problem("WRONG_TYPE", "this must be a name or a list of names", (*path, "depends_on"))
            depends = []
        result[name] = ResourceDefinition(
            name=name,
            type=body["type"],
            properties=body.get("properties") or {},
            metadata=body.get("metadata") or {},
            depends_on=tuple(depends),
            condition=body.get("condition"),
            deletion_policy=body.get("deletion_policy", "delete"),
            update_policy=body.get("update_policy"),
            external_id=body.get("external_id"),
            description=reader.text(body.get("description"), (*path, "description")),
        )
    return result


def _outputs(reader: Reader, data: dict[str, Any]) -> dict[str, OutputDefinition]:
    result: dict[str, OutputDefinition] = {}
    declared = reader.mapping(data.get("outputs"), ("outputs",))
    if len(declared) > MAX_OUTPUTS:
        reader.problem("TOO_MANY", f"more than {MAX_OUTPUTS} outputs", ("outputs",))
        return result
    for name, raw in declared.items():
        path: Path = ("outputs", name)
        body = reader.mapping(raw, path)
        reader.keys(body, frozenset({"value", "description", "condition"}), path)
        if "value" not in body:
            reader.problem("NO_VALUE", "an output needs a 'value'", path)
            continue
        result[name] = OutputDefinition(
            name=name,
            value=body["value"],
            description=reader.text(body.get("description"), (*path, "description")),
            condition=body.get("condition"),
        )
    return result
