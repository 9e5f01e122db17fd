"""Handlers of the Heat API that tell what this server is and which types it knows."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pcloud.api.heat.requests import HeatError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.functions.cfn import names_of_cfn
from pcloud.stacks.functions.hot import names_of_hot
from pcloud.stacks.hot import VERSIONS
from pcloud.stacks.schema import Property
from pcloud.stacks.types.base import ResourceType
from pcloud.stacks.types.registry import types


async def build_info(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET build_info."""
    return JSONResponse({"api": {"revision": "pacemaker-cloud"}, "engine": {"revision": "pacemaker-cloud"}})


async def services(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET services."""
    return JSONResponse(
        {
            "services": [
                {
                    "binary": "pcloud-cped",
                    "host": "local",
                    "status": "up",
                    "topic": "engine",
                    "engine_id": "1",
                    "hostname": "local",
                    "report_interval": 60,
                    "updated_at": None,
                    "created_at": None,
                    "deleted_at": None,
                    "id": "1",
                }
            ]
        }
    )


async def resource_types(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET resource_types."""
    return JSONResponse({"resource_types": sorted(name for name in types() if "::" in name)})


async def resource_type(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET the schema of a type."""
    name, kind = _type_of(request)
    properties = {
        key: {
            "type": rule.type,
            "required": rule.required,
            "update_allowed": rule.on_change == "update",
            "description": rule.description or rule.inert,
        }
        for key, rule in kind.schema.items()
    }
    attributes = {key: {"description": ""} for key in sorted(kind.attributes or ())}
    return JSONResponse(
        {
            "resource_type": name,
            "properties": properties,
            "attributes": attributes,
            "support_status": {"status": "SUPPORTED", "message": None, "version": None, "previous_status": None},
            "description": (kind.__doc__ or "").strip(),
        }
    )


def _type_of(request: Request) -> tuple[str, ResourceType]:
    name = request.path_params["type"]
    kind = types().get(name)
    if kind is None:
        raise HeatError(404, "EntityNotFound", f"The Resource Type ({name}) could not be found.")
    return name, kind


_HOT_TYPES = {
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "list": "comma_delimited_list",
    "map": "json",
}
_NOT_PLAIN = re.compile("[^A-Za-z0-9]")
"""What names in templates of CloudFormation may not hold."""
_CFN_TYPES = {"integer": "Number", "number": "Number", "list": "CommaDelimitedList"}


async def resource_type_template(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET a template with one resource of a type, whose properties are its parameters and whose attributes its outputs."""
    name, kind = _type_of(request)
    language = request.query_params.get("template_type", "cfn")
    if language not in ("cfn", "hot"):
        raise HeatError(400, "HTTPBadRequest", "template_type is cfn or hot")
    hot = language == "hot"
    logical = name.rsplit("::", 1)[-1]
    offered = {key: rule for key, rule in kind.schema.items() if not rule.refused}
    named = {key: key if hot else _NOT_PLAIN.sub("", key) for key in (*offered, *sorted(kind.attributes or ()))}
    parameters = {named[key]: _parameter(rule, hot=hot) for key, rule in offered.items()}
    refer, attribute = ("get_param", "get_attr") if hot else ("Ref", "Fn::GetAtt")
    resource = {"type": name, "properties": {key: {refer: named[key]} for key in offered}}
    outputs = {named[key]: {"value": {attribute: [logical, key]}} for key in sorted(kind.attributes or ())}
    if hot:
        return JSONResponse(
            {
                "heat_template_version": VERSIONS[-1],
                "description": f"Initial template of {logical}",
                "parameters": parameters,
                "resources": {logical: resource},
                "outputs": outputs,
            }
        )
    return JSONResponse(
        {
            "HeatTemplateFormatVersion": "2012-12-12",
            "Description": f"Initial template of {logical}",
            "Parameters": parameters,
            "Resources": {logical: {"Type": name, "Properties": resource["properties"]}},
            "Outputs": {key: {"Value": output["value"]} for key, output in outputs.items()},
        }
    )


def _parameter(rule: Property, *, hot: bool) -> dict[str, Any]:
    """Return the declaration of a parameter for a property, in the words of its language."""
    given: dict[str, Any] = {"type": _HOT_TYPES.get(rule.type, "string" if rule.type == "string" else "json")}
    if not hot:
        given["type"] = _CFN_TYPES.get(rule.type, "String" if rule.type in ("string", "boolean") else "Json")
    if rule.description or rule.inert:
        given["description"] = rule.description or rule.inert
    if not rule.required:
        empty: dict[str, Any] = {"list": [], "map": {}, "any": {}, "integer": 0, "number": 0, "boolean": False}
        given["default"] = rule.default if rule.default is not None else empty.get(rule.type, "")
        if isinstance(given["default"], list):  # a list's default is written as its text
            given["default"] = ",".join(map(str, given["default"]))
    if rule.secret:
        given["hidden" if hot else "noEcho"] = True
    return given if hot else {key[0].upper() + key[1:]: value for key, value in given.items()}


async def template_functions(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET the functions of a template version."""
    kind, _, version = request.path_params["version"].partition(".")
    if kind == "heat_template_version" and version in VERSIONS:
        names = names_of_hot(version)
    elif (kind, version) in (("AWSTemplateFormatVersion", "2010-09-09"), ("HeatTemplateFormatVersion", "2012-12-12")):
        names = names_of_cfn()
    else:
        raise HeatError(404, "NotFound", f"Template version {request.path_params['version']} not found.")
    rows = [{"functions": name, "description": (about or "").rpartition(": ")[2]} for name, about in names.items()]
    return JSONResponse({"template_functions": rows})


async def template_versions(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET template_versions."""
    rows = [{"version": f"heat_template_version.{version}", "type": "hot", "aliases": []} for version in VERSIONS]
    rows += [
        {"version": "AWSTemplateFormatVersion.2010-09-09", "type": "cfn", "aliases": []},
        {"version": "HeatTemplateFormatVersion.2012-12-12", "type": "cfn", "aliases": []},
    ]
    return JSONResponse({"template_versions": rows})
