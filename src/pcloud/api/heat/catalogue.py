"""Handlers of the Heat API that tell what this server is and which types it knows."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pcloud.api.heat.requests import HeatError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.hot import VERSIONS
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
    name = request.path_params["type"]
    kind = types().get(name)
    if kind is None:
        raise HeatError(404, "EntityNotFound", f"The Resource Type ({name}) could not be found.")
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


async def template_versions(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET template_versions."""
    rows = [{"version": f"heat_template_version.{version}", "type": "hot", "aliases": []} for version in VERSIONS]
    rows += [
        {"version": "AWSTemplateFormatVersion.2010-09-09", "type": "cfn", "aliases": []},
        {"version": "HeatTemplateFormatVersion.2012-12-12", "type": "cfn", "aliases": []},
    ]
    return JSONResponse({"template_versions": rows})
