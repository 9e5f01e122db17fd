"""CloudFormation's functions, those of AWS::LanguageExtensions, and Heat's own additions. Pure. Conditions: `cfn_logic`."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any

from pcloud.stacks.documents import Path
from pcloud.stacks.functions import cfn_logic
from pcloud.stacks.functions.evaluation import (
    NO_VALUE,
    Function,
    FunctionError,
    Scope,
    Unknown,
    list_of,
    text_of,
    unknown_in,
)
from pcloud.stacks.template import Template

_PLACE = re.compile(r"\$\{(!?)([^${}]*)\}")
MAX_CIDRS = 256


def join(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Join: [delimiter, list]."""
    delimiter, items = list_of(scope.evaluate(argument, path), "Fn::Join", 2)
    unknown = unknown_in([delimiter, items])
    if unknown is not None:
        return unknown
    if isinstance(items, str):
        raise FunctionError("Fn::Join takes [delimiter, list of values]")
    parts = [text_of(item, "each value of Fn::Join") for item in list_of(items, "Fn::Join's second part")]
    return text_of(delimiter, "the delimiter of Fn::Join").join(parts)


def split(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Split: [delimiter, text]."""
    value = list_of(scope.evaluate(argument, path), "Fn::Split", 2)
    unknown = unknown_in(value)
    if unknown is not None:
        return unknown
    delimiter = text_of(value[0], "the delimiter of Fn::Split")
    if not delimiter:
        raise FunctionError("the delimiter of Fn::Split must not be empty")
    return text_of(value[1], "Fn::Split's second part").split(delimiter)


def select(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Select: [index, list]; a key of a map too, as Heat does."""
    index, items = list_of(scope.evaluate(argument, path), "Fn::Select", 2)
    if isinstance(items, Unknown) or isinstance(index, Unknown):
        return items if isinstance(items, Unknown) else index
    if isinstance(items, str):
        items = items.split(",")
    if isinstance(items, dict):
        return items.get(str(index), "")
    try:
        position = int(index)
    except (TypeError, ValueError):
        raise FunctionError(f"the index of Fn::Select must be a number, not '{index}'") from None
    if not isinstance(items, list):
        raise FunctionError("Fn::Select takes [index, list]")
    if not 0 <= position < len(items):
        raise FunctionError(f"Fn::Select wants value {position} of {len(items)}")
    return items[position]


def base64_of(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Base64: the text encoded."""
    value = scope.evaluate(argument, path)
    if isinstance(value, Unknown):
        return value
    return base64.b64encode(text_of(value, "Fn::Base64").encode()).decode()


def find_in_map(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::FindInMap: [mapping, key, key], and {DefaultValue: …} with the language extensions."""
    parts = list_of(argument, "Fn::FindInMap")
    if len(parts) not in (3, 4):
        raise FunctionError("Fn::FindInMap takes [mapping, first key, second key]")
    keys = [scope.evaluate(part, (*path, index)) for index, part in enumerate(parts[:3])]
    default: Any = None
    if len(parts) == 4:
        if not isinstance(parts[3], dict) or set(parts[3]) != {"DefaultValue"}:
            raise FunctionError("the fourth part of Fn::FindInMap is {DefaultValue: …}")
        default = scope.evaluate(parts[3]["DefaultValue"], (*path, 3, "DefaultValue"))
    unknown = unknown_in(keys)
    if unknown is not None:
        return unknown
    found: Any = scope.template.mappings
    for key in keys:
        name = text_of(key, "each key of Fn::FindInMap")
        if not isinstance(found, dict) or name not in found:
            if len(parts) == 4:
                return default
            raise FunctionError(
                f"there is no '{name}' in the mapping {'/'.join(str(part) for part in keys)}", "UNKNOWN_REFERENCE"
            )
        found = found[name]
    return found


def zones(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::GetAZs: the places where guests can run."""
    value = scope.evaluate(argument, path)
    if isinstance(value, Unknown):
        return value
    return list(scope.pseudo.get("zones", ["nova"]))


def substitute(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Sub: text with ${Name}, or [text, {name: value}]."""
    own: dict[str, Any] = {}
    if isinstance(argument, list):
        if len(argument) != 2 or not isinstance(argument[1], dict):
            raise FunctionError("Fn::Sub takes text, or [text, map of names]")
        template = argument[0]
        own = {key: scope.evaluate(child, (*path, 1, key)) for key, child in argument[1].items()}
    else:
        template = argument
    if not isinstance(template, str):
        raise FunctionError("Fn::Sub takes text, or [text, map of names]")
    unknown: list[Unknown] = []

    def place(match: re.Match[str]) -> str:
        if match[1]:
            return "${" + match[2] + "}"
        name = match[2].strip()
        if name in own:
            value = own[name]
        elif "." in name and name not in scope.parameters:
            resource, attribute = name.split(".", 1)
            value = scope.attribute(resource, attribute, [])
        else:
            value = reference(scope, name, path)
        found = unknown_in(value)
        if found is not None:
            unknown.append(found)
            return ""
        if isinstance(value, list):
            return ",".join(text_of(item, f"${{{name}}}") for item in value)
        return text_of(value, f"${{{name}}}")

    result = _PLACE.sub(place, template)
    return unknown[0] if unknown else result


def reference(scope: Scope, argument: Any, path: Path) -> Any:
    """Ref: a parameter, a pseudo parameter or a resource."""
    if not isinstance(argument, str):
        if not isinstance(argument, dict):
            raise FunctionError("Ref takes a name")
        argument = scope.evaluate(argument, path)
        if isinstance(argument, Unknown):
            return argument
    if argument == "AWS::NoValue":
        return NO_VALUE
    if argument in scope.pseudo and argument.startswith("AWS::"):
        return scope.pseudo[argument]
    if argument.startswith("AWS::"):
        raise FunctionError(f"there is no pseudo parameter '{argument}'", "UNKNOWN_REFERENCE")
    if argument in scope.template.parameters:
        if argument not in scope.parameters:
            return Unknown(f"a value for parameter {argument}")
        value = scope.parameters[argument]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return value
    return scope.reference(argument)


def get_attribute(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::GetAtt: [resource, attribute] or "resource.attribute"."""
    if isinstance(argument, str):
        argument = argument.split(".", 1)
    parts = list_of(argument, "Fn::GetAtt")
    if len(parts) < 2 or not isinstance(parts[0], str):
        raise FunctionError("Fn::GetAtt takes [resource, attribute]")
    attribute = [scope.evaluate(part, (*path, index + 1)) for index, part in enumerate(parts[1:])]
    unknown = unknown_in(attribute)
    if unknown is not None:
        scope.attribute(parts[0], "", [])
        return unknown
    return scope.attribute(parts[0], ".".join(text_of(part, "an attribute's name") for part in attribute), [])


def import_value(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::ImportValue: what another stack exports."""
    name = scope.evaluate(argument, path)
    return name if isinstance(name, Unknown) else scope.import_value(text_of(name, "Fn::ImportValue"))


def cidr(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Cidr: [block, count, bits]: the first `count` blocks of 2^bits addresses within a block."""
    parts = list_of(scope.evaluate(argument, path), "Fn::Cidr")
    if len(parts) not in (2, 3):
        raise FunctionError("Fn::Cidr takes [block, count] or [block, count, bits]")
    unknown = unknown_in(parts)
    if unknown is not None:
        return unknown
    try:
        network = ipaddress.ip_network(text_of(parts[0], "the block"), strict=False)
        count = int(parts[1])
        bits = int(parts[2]) if len(parts) == 3 else (8 if network.version == 4 else 64)
    except (TypeError, ValueError) as problem:
        raise FunctionError(f"Fn::Cidr: {problem}") from None
    prefix = network.max_prefixlen - bits
    if not 1 <= count <= MAX_CIDRS or prefix < network.prefixlen or bits < 0:
        raise FunctionError(f"Fn::Cidr: {count} blocks of {bits} bits do not fit into {network}")
    if count > 2 ** (prefix - network.prefixlen):
        raise FunctionError(f"Fn::Cidr: {count} blocks of {bits} bits do not fit into {network}")
    base = int(network.network_address)
    return [f"{type(network.network_address)(base + index * 2**bits)}/{prefix}" for index in range(count)]


def length(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Length of a list."""
    value = scope.evaluate(argument, path)
    if isinstance(value, Unknown):
        return value
    return len(list_of(value, "Fn::Length"))


def to_json(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::ToJsonString of a map or list."""
    value = scope.evaluate(argument, path)
    unknown = unknown_in(value)
    if unknown is not None:
        return unknown
    if not isinstance(value, dict | list):
        raise FunctionError("Fn::ToJsonString takes a map or a list")
    return json.dumps(value, separators=(",", ":"))


def ref_all(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::RefAll: the values of all parameters of an AWS type, those of lists of it each."""
    if not isinstance(argument, str):
        raise FunctionError("Fn::RefAll takes the name of a parameter's type")
    found: list[Any] = []
    for name, schema in scope.template.parameters.items():
        if schema.declared_type not in (argument, f"List<{argument}>"):
            continue
        if name not in scope.parameters:
            return Unknown(f"a value for parameter {name}")
        value = scope.parameters[name]
        found += value if isinstance(value, list) else [value]
    return found


def value_of(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::ValueOf of a parameter; attributes of AWS objects are not known here."""
    raise FunctionError("Fn::ValueOf asks AWS about an object of theirs, which is not to be had here", "REFUSED")


def transform(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Transform runs macros inside AWS."""
    raise FunctionError("Fn::Transform runs a macro inside AWS, which is not to be had here", "REFUSED")


# --- Heat's additions


def replace(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Replace: [{old: new}, text]."""
    names, text = list_of(scope.evaluate(argument, path), "Fn::Replace", 2)
    unknown = unknown_in([names, text])
    if unknown is not None:
        return unknown
    if not isinstance(names, dict):
        raise FunctionError("Fn::Replace takes [{old: new}, text]")
    result = text_of(text, "Fn::Replace's second part")
    for old in sorted(names, key=len, reverse=True):
        if old:
            result = result.replace(old, text_of(names[old], f"the replacement of '{old}'"))
    return result


def member_list_to_map(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::MemberListToMap: [key name, value name, list of ".member.0.Name=x"]."""
    key_name, value_name, items = list_of(scope.evaluate(argument, path), "Fn::MemberListToMap", 3)
    unknown = unknown_in(items)
    if unknown is not None:
        return unknown
    members: dict[str, dict[str, str]] = {}
    for item in list_of(items, "Fn::MemberListToMap"):
        left, _, value = text_of(item, "a member").partition("=")
        parts = left.strip(".").split(".")
        if len(parts) >= 3:
            members.setdefault(parts[1], {})[parts[2]] = value
    return {member[key_name]: member.get(value_name, "") for member in members.values() if key_name in member}


def resource_facade(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::ResourceFacade: a section of the parent resource that this template stands for."""
    if argument not in ("Metadata", "DeletionPolicy", "UpdatePolicy"):
        raise FunctionError("Fn::ResourceFacade takes Metadata, DeletionPolicy or UpdatePolicy")
    return scope.facade(argument.lower()) if scope.facade is not None else Unknown("the parent stack")


_ALWAYS: Mapping[str, Function] = {
    "Ref": reference,
    "Fn::GetAtt": get_attribute,
    "Fn::Join": join,
    "Fn::Split": split,
    "Fn::Select": select,
    "Fn::Base64": base64_of,
    "Fn::FindInMap": find_in_map,
    "Fn::GetAZs": zones,
    "Fn::Sub": substitute,
    "Fn::ImportValue": import_value,
    "Fn::Cidr": cidr,
    "Fn::If": cfn_logic.if_,
    "Fn::And": cfn_logic.and_,
    "Fn::Or": cfn_logic.or_,
    "Fn::Not": cfn_logic.not_,
    "Fn::Equals": cfn_logic.equals,
    "Fn::Contains": cfn_logic.contains,
    "Fn::EachMemberEquals": cfn_logic.each_equals,
    "Fn::EachMemberIn": cfn_logic.each_in,
    "Fn::RefAll": ref_all,
    "Fn::ValueOf": value_of,
    "Fn::ValueOfAll": value_of,
    "Fn::Transform": transform,
    "Fn::Replace": replace,
    "Fn::MemberListToMap": member_list_to_map,
    "Fn::ResourceFacade": resource_facade,
}
_EXTENSIONS: Mapping[str, Function] = {"Fn::Length": length, "Fn::ToJsonString": to_json}
_IN_CONDITIONS: Mapping[str, Function] = {"Condition": cfn_logic.condition}


def functions_of_cfn(template: Template) -> Mapping[str, Function]:
    """Return the functions a CloudFormation template may use."""
    functions = {**_ALWAYS, **(_IN_CONDITIONS if template.conditions or template.rules else {})}
    if "AWS::LanguageExtensions" in template.transforms:
        functions.update(_EXTENSIONS)
    return functions


def names_of_cfn() -> dict[str, str | None]:
    """Return the functions of all templates by name, each with what it is."""
    return {name: function.__doc__ for name, function in sorted(_ALWAYS.items())}
