"""Reads CloudFormation templates (JSON, YAML with short tags) and Heat's CFN-compatible form. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pcloud.stacks.documents import Document, Path
from pcloud.stacks.foreach import expand_loops
from pcloud.stacks.reading import HEAT_NAME, MAX_OUTPUTS, MAX_PARAMETERS, MAX_RESOURCES, NAME, Reader
from pcloud.stacks.template import (
    LANGUAGE_EXTENSIONS,
    UNSET,
    Constraint,
    Dialect,
    OutputDefinition,
    ParameterSchema,
    ResourceDefinition,
    Template,
)

_SECTIONS = frozenset(
    [
        "AWSTemplateFormatVersion",
        "HeatTemplateFormatVersion",
        "Description",
        "Metadata",
        "Parameters",
        "Rules",
        "Mappings",
        "Conditions",
        "Transform",
        "Resources",
        "Outputs",
        "Hooks",
        "Globals",
    ]
)
_RESOURCE_KEYS = frozenset(
    [
        "Type",
        "Properties",
        "Metadata",
        "DependsOn",
        "Condition",
        "DeletionPolicy",
        "UpdateReplacePolicy",
        "CreationPolicy",
        "UpdatePolicy",
        "Description",
        "Version",
    ]
)
_PARAMETER_KEYS = frozenset(
    [
        "Type",
        "Default",
        "Description",
        "NoEcho",
        "AllowedValues",
        "AllowedPattern",
        "MinLength",
        "MaxLength",
        "MinValue",
        "MaxValue",
        "ConstraintDescription",
        "Label",
    ]
)


def read_cloudformation(document: Document, given: Mapping[str, Any]) -> Template:
    """Take a CloudFormation document apart; InvalidDocument lists all problems of its shape."""
    reader = Reader(document)
    data: dict[str, Any] = document.data
    reader.keys(data, _SECTIONS, ())
    version = str(data.get("AWSTemplateFormatVersion", data.get("HeatTemplateFormatVersion", "2010-09-09")))
    if "AWSTemplateFormatVersion" in data and version != "2010-09-09":
        reader.problem(
            "UNKNOWN_VERSION", f"version '{version}' is not known", ("AWSTemplateFormatVersion",), "write 2010-09-09"
        )
    if "HeatTemplateFormatVersion" in data and version not in ("2012-12-12", "2016-10-14"):
        reader.problem(
            "UNKNOWN_VERSION", f"version '{version}' is not known", ("HeatTemplateFormatVersion",), "write 2012-12-12"
        )
    transforms = _transforms(reader, data.get("Transform"))
    parameters = _parameters(reader, data)
    reader.finish()
    if LANGUAGE_EXTENSIONS in transforms:
        data = expand_loops(reader, data, parameters, given)
        reader.finish()
    mappings = reader.mapping(data.get("Mappings"), ("Mappings",))
    for name, mapping in mappings.items():
        if not NAME.match(name):
            reader.problem("BAD_NAME", f"'{name}' may hold letters and digits only", ("Mappings", name))
        for top, second in reader.mapping(mapping, ("Mappings", name)).items():
            reader.mapping(second, ("Mappings", name, top))
    conditions = reader.mapping(data.get("Conditions"), ("Conditions",))
    resources = _resources(reader, data)
    for name in resources.keys() & parameters.keys():
        reader.problem("NAME_TAKEN", f"'{name}' is the name of a parameter already", ("Resources", name))
    outputs = _outputs(reader, data)
    metadata = reader.mapping(data.get("Metadata"), ("Metadata",))
    template = Template(
        dialect=Dialect.CFN,
        version=version,
        description=reader.text(data.get("Description"), ("Description",)),
        parameters=parameters,
        mappings=mappings,
        conditions=conditions,
        rules=reader.mapping(data.get("Rules"), ("Rules",)),
        resources=resources,
        outputs=outputs,
        metadata=metadata,
        transforms=transforms,
        document=document,
    )
    reader.finish()
    return template


def _transforms(reader: Reader, value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    names = [item.get("Name") if isinstance(item, dict) else item for item in items]
    for index, name in enumerate(names):
        if name != LANGUAGE_EXTENSIONS:
            reader.problem(
                "UNKNOWN_TRANSFORM",
                f"the transform '{name}' can not be run here",
                ("Transform", index) if isinstance(value, list) else ("Transform",),
                "AWS::LanguageExtensions is the only transform; macros run in AWS's own Lambda service",
            )
    return tuple(str(name) for name in names if isinstance(name, str))


def parameter_type(declared: str) -> str | None:
    """Return our kind of a declared CloudFormation type; None when the type is not known."""
    simple = {
        "String": "string",
        "Number": "number",
        "CommaDelimitedList": "list",
        "List<Number>": "numbers",
        "List<String>": "list",
        "Json": "json",
        "Boolean": "boolean",
    }
    if declared in simple:
        return simple[declared]
    if re.fullmatch(r"AWS::[A-Za-z0-9]+::[A-Za-z0-9:]+", declared) and not declared.startswith("AWS::SSM::Parameter"):
        return "string"
    if re.fullmatch(r"List<AWS::[A-Za-z0-9]+::[A-Za-z0-9:]+>", declared):
        return "list"
    return None


def _parameters(reader: Reader, data: dict[str, Any]) -> dict[str, ParameterSchema]:
    result: dict[str, ParameterSchema] = {}
    declared = reader.mapping(data.get("Parameters"), ("Parameters",))
    if len(declared) > MAX_PARAMETERS:
        reader.problem("TOO_MANY", f"more than {MAX_PARAMETERS} parameters", ("Parameters",))
        return result
    for name, raw in declared.items():
        path: Path = ("Parameters", name)
        body = reader.mapping(raw, path)
        reader.keys(body, _PARAMETER_KEYS, path)
        if not NAME.match(name):
            reader.problem("BAD_NAME", f"'{name}' may hold letters and digits only", path)
        type_name = reader.text(body.get("Type"), (*path, "Type"))
        ours = parameter_type(type_name)
        if ours is None:
            hint = "String, Number, List<Number>, CommaDelimitedList, Json or an AWS type"
            if type_name.startswith("AWS::SSM::Parameter"):
                hint = "there is no parameter store here: give the value itself"
            reader.problem("UNKNOWN_TYPE", f"the parameter type '{type_name}' is not known", (*path, "Type"), hint)
            ours = "string"
        result[name] = ParameterSchema(
            name=name,
            type=ours,
            declared_type=type_name,
            default=body.get("Default", UNSET),
            description=reader.text(body.get("Description"), (*path, "Description")),
            label=reader.text(body.get("Label"), (*path, "Label")),
            hidden=reader.boolean(body.get("NoEcho", False), (*path, "NoEcho")),
            constraints=tuple(_constraints(reader, body, path)),
        )
    return result


def _number(reader: Reader, value: Any, path: Path) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        reader.problem("WRONG_TYPE", "this must be a number", path)
        return None


def _constraints(reader: Reader, body: dict[str, Any], path: Path) -> list[Constraint]:
    found: list[Constraint] = []
    description = reader.text(body.get("ConstraintDescription"), (*path, "ConstraintDescription"))
    if "MinLength" in body or "MaxLength" in body:
        found.append(
            Constraint(
                kind="length",
                minimum=_number(reader, body.get("MinLength"), (*path, "MinLength")),
                maximum=_number(reader, body.get("MaxLength"), (*path, "MaxLength")),
                description=description,
            )
        )
    if "MinValue" in body or "MaxValue" in body:
        found.append(
            Constraint(
                kind="range",
                minimum=_number(reader, body.get("MinValue"), (*path, "MinValue")),
                maximum=_number(reader, body.get("MaxValue"), (*path, "MaxValue")),
                description=description,
            )
        )
    if "AllowedValues" in body:
        values = body["AllowedValues"]
        if isinstance(values, list):
            found.append(Constraint(kind="allowed_values", values=tuple(values), description=description))
        else:
            reader.problem("WRONG_TYPE", "this must be a list", (*path, "AllowedValues"))
    if "AllowedPattern" in body:
        pattern = reader.text(body["AllowedPattern"], (*path, "AllowedPattern"))
        try:
            re.compile(pattern)
        except re.error as problem:
            reader.problem("BAD_PATTERN", f"not a regular expression: {problem}", (*path, "AllowedPattern"))
        else:
            found.append(Constraint(kind="allowed_pattern", pattern=pattern, description=description))
    return found


def _resources(reader: Reader, data: dict[str, Any]) -> dict[str, ResourceDefinition]:
    result: dict[str, ResourceDefinition] = {}
    declared = reader.mapping(data.get("Resources"), ("Resources",))
    if not declared and "Resources" not in data:
        reader.problem("NO_RESOURCES", "a template needs a 'Resources' section", ())
    if len(declared) > MAX_RESOURCES:
        reader.problem("TOO_MANY", f"more than {MAX_RESOURCES} resources", ("Resources",))
        return result
    for name, raw in declared.items():
        path: Path = ("Resources", name)
        body = reader.mapping(raw, path)
        reader.keys(body, _RESOURCE_KEYS, path)
        heat = str(body.get("Type")).startswith("OS::")
        if not (HEAT_NAME if heat else NAME).match(name):
            reader.problem("BAD_NAME", f"'{name}' may hold letters and digits only", path)
        if not isinstance(body.get("Type"), str):
            reader.problem("NO_TYPE", "a resource needs a 'Type'", path)
            continue
        depends = body.get("DependsOn", [])
        depends = [depends] if isinstance(depends, str) else depends
        if not isinstance(depends, list) or not all(isinstance(item, str) for item in depends):
            reader.problem("WRONG_TYPE", "this must be a name or a list of names", (*path, "DependsOn"))
            depends = []
        condition = body.get("Condition")
        if condition is not None and not isinstance(condition, str):
            reader.problem("WRONG_TYPE", "this must be the name of a condition", (*path, "Condition"))
            condition = None
        result[name] = ResourceDefinition(
            name=name,
            type=body["Type"],
            properties=reader.mapping(body.get("Properties"), (*path, "Properties")),
            metadata=reader.mapping(body.get("Metadata"), (*path, "Metadata")),
            depends_on=tuple(depends),
            condition=condition,
            deletion_policy=body.get("DeletionPolicy", "Delete"),
            update_replace_policy=body.get("UpdateReplacePolicy", "Delete"),
            creation_policy=body.get("CreationPolicy"),
            update_policy=body.get("UpdatePolicy"),
            description=reader.text(body.get("Description"), (*path, "Description")),
        )
    return result


def _outputs(reader: Reader, data: dict[str, Any]) -> dict[str, OutputDefinition]:
    result: dict[str, OutputDefinition] = {}
    declared = reader.mapping(data.get("Outputs"), ("Outputs",))
    if len(declared) > MAX_OUTPUTS:
        reader.problem("TOO_MANY", f"more than {MAX_OUTPUTS} outputs", ("Outputs",))
        return result
    for name, raw in declared.items():
        path: Path = ("Outputs", name)
        body = reader.mapping(raw, path)
        reader.keys(body, frozenset({"Value", "Description", "Condition", "Export"}), path)
        if "Value" not in body:
            reader.problem("NO_VALUE", "an output needs a 'Value'", path)
            continue
        export = reader.mapping(body.get("Export"), (*path, "Export")) if "Export" in body else None
        if export is not None and "Name" not in export:
            reader.problem("NO_VALUE", "an export needs a 'Name'", (*path, "Export"))
        result[name] = OutputDefinition(
            name=name,
            value=body["Value"],
            description=reader.text(body.get("Description"), (*path, "Description")),
            condition=body.get("Condition"),
            export=(export or {}).get("Name"),
        )
    return result
