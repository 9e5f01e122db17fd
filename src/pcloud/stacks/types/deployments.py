"""OS::Heat::SoftwareDeployment and its kin: a configuration put to work on a guest.

A script is run in the guest by the engine, through the infrastructure or ssh, and needs no agent there. Other tools'
configurations are published in the server's metadata (`deployments`), for an agent in the guest that polls them and signals
what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.functions.evaluation import walk
from pcloud.stacks.records import ResourceRecord, derived_id
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, listing, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services
from pcloud.stacks.types.groups import GroupType
from pcloud.stacks.types.rolling import Members
from pcloud.stacks.types.running import Result, run_script, safe_name
from pcloud.stacks.types.software import configuration_of, filled
from pcloud.stacks.types.waiting import without_queue

_UPDATE = OnChange.UPDATE
DEPLOY_SECONDS = 3600.0
"""How long a deployment may take at most; the stack's own time-out may be shorter."""
ACTIONS = ("CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME")
TRANSPORTS = ("CFN_SIGNAL", "TEMP_URL_SIGNAL", "HEAT_SIGNAL", "NO_SIGNAL", "ZAQAR_SIGNAL")
SCRIPT = "script"
_PROPERTIES: Schema = {
    "config": text(on_change=_UPDATE),
    "input_values": mapping(on_change=_UPDATE),
    "actions": listing(default=["CREATE", "UPDATE"], on_change=_UPDATE),
    "name": text(on_change=_UPDATE),
    "signal_transport": text(default="CFN_SIGNAL", allowed=TRANSPORTS, on_change=OnChange.NOTHING),
}


class SoftwareDeployment(ResourceType):
    """One configuration on one server."""

    names = ("OS::Heat::SoftwareDeployment", "OS::Heat::StructuredDeployment")
    attributes = None
    needs = frozenset({"guests", "access"})
    schema: ClassVar[Schema] = {
        **_PROPERTIES,
        "server": text(required=True),
        "input_key": text(default="get_input", on_change=_UPDATE),
        "input_values_validate": text(default="LAX", allowed=("LAX", "STRICT"), on_change=_UPDATE),
        "deployment_names": anything(on_change=_UPDATE, inert="it is a part of Heat's own bookkeeping"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Only known actions; there is no message queue to signal through."""
        unknown = [
            PropertyProblem(code="BAD_PROPERTY", message=f"there is no action {action}", path=("actions",))
            for action in properties.get("actions") or []
            if isinstance(action, str) and action not in ACTIONS
        ]
        return unknown + without_queue(properties)

    async def create(self, context: Context) -> None:
        """Put it to work."""
        context.record.physical = context.token
        await self._act(context, "CREATE")

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Put the changed form to work."""
        await self._act(context, "UPDATE")

    async def delete(self, context: Context) -> None:
        """Undo it, where the configuration has an action for that and the server is still there."""
        if context.record.physical and "DELETE" in (context.properties.get("actions") or []):
            server = context.services.find(str(context.properties.get("server")))
            if server is not None and context.services.place_of(server) is not None:
                await self._act(context, "DELETE")
        _publish(context, None)

    async def _act(self, context: Context, action: str) -> None:
        given, services = context.properties, context.services
        if action not in given["actions"]:
            return
        config = _chosen(services, given.get("config"), action)
        if config is None:
            return
        server = services.find(str(given["server"]))
        place = services.place_of(server) if server is not None else None
        if server is None or place is None:
            raise ResourceFailed(f"there is no server {given['server']}")
        values = _values(context, config, action)
        body = config["config"]
        if isinstance(body, dict):
            body = json.dumps(filled(body, values, given["input_key"]))
        identity = derived_id(context.token, action, body, json.dumps(values, sort_keys=True, default=str))
        outputs = [item["name"] for item in config["outputs"]]
        if config["group"] == SCRIPT:
            bad = [name for name in outputs if not safe_name(name)]
            if bad:
                raise ResourceFailed(f"the output name '{bad[0][:60]}' can not be part of a file's name")
            result = await run_script(
                services, place, identity, body, values, outputs, deadline=services.now() + DEPLOY_SECONDS
            )
        else:
            found = await self._by_agent(context, config, identity, body, values)
            if found is None:
                return
            result = found
        _keep(context, config, result)

    async def _by_agent(
        self, context: Context, config: Mapping[str, Any], identity: str, body: str, values: Mapping[str, str]
    ) -> Result | None:
        services, record = context.services, context.record
        inputs = [{"name": name, "value": value, "type": "String"} for name, value in values.items()]
        entry = {
            "id": identity,
            "name": context.properties.get("name") or record.name,
            "group": config["group"],
            "config": body,
            "options": config["options"],
            "inputs": inputs,
            "outputs": config["outputs"],
        }
        _publish(context, entry)
        if context.properties["signal_transport"] == "NO_SIGNAL":
            return None
        if record.data.get("waits") != identity:
            record.data["waits"], record.data["signals"] = identity, len(services.signals(record.id))
            services.save(record)
        base = int(record.data["signals"])
        if not await services.wait_signals(record.id, lambda all_: len(all_) > base, services.now() + DEPLOY_SECONDS):
            raise ResourceFailed(
                f"no agent in the guest signalled that it carried the {config['group']} configuration out"
            )
        signal = services.signals(record.id)[base]
        details = signal.get("details") or {}
        code = details.get("deploy_status_code", 0 if signal.get("status") == "SUCCESS" else 1)
        return Result(
            code=int(code) if str(code).lstrip("-").isdigit() else 1,
            stdout=str(details.get("deploy_stdout", "")),
            stderr=str(details.get("deploy_stderr", signal.get("reason", ""))),
            outputs={item["name"]: str(details.get(item["name"].lower(), "")) for item in config["outputs"]},
        )


def _keep(context: Context, config: Mapping[str, Any], result: Result) -> None:
    context.record.attributes = {
        "deploy_stdout": result.stdout,
        "deploy_stderr": result.stderr,
        "deploy_status_code": result.code,
        **result.outputs,
    }
    context.services.save(context.record)
    if result.code != 0:
        words = result.stderr.strip().splitlines()[-1:] or [""]
        raise ResourceFailed(f"Deployment to server failed: deploy_status_code : {result.code}: {words[0][:300]}")
    for item in config["outputs"]:
        if item.get("error_output") and result.outputs.get(item["name"]):
            raise ResourceFailed(f"Deployment to server failed: {item['name']} : {result.outputs[item['name']][:300]}")


def _chosen(services: Services, reference: Any, action: str) -> dict[str, Any] | None:
    """Return the configuration for an action; None when a component has none for it."""
    record = configuration_of(services, reference)
    if record is None:
        if reference:
            raise ResourceFailed(f"there is no software configuration {str(reference)[:80]}")
        return {"group": "Heat::Ungrouped", "config": "", "inputs": [], "outputs": [], "options": {}}
    given = record.properties
    group, body = given.get("group", "Heat::Ungrouped"), record.attributes.get("config", "")
    if "configs" in record.attributes:
        fitting = [item for item in record.attributes["configs"] if action in item["actions"]]
        if not fitting:
            return None
        group, body = fitting[0]["tool"], fitting[0]["config"]
    return {
        "group": group,
        "config": body,
        "inputs": given.get("inputs") or [],
        "outputs": given.get("outputs") or [],
        "options": given.get("options") or {},
    }


def _values(context: Context, config: Mapping[str, Any], action: str) -> dict[str, str]:
    """Return all inputs as text: the declared ones, those given, and what scripts may know of their deployment."""
    given = context.properties.get("input_values") or {}
    declared = {item["name"]: item.get("default") for item in config["inputs"]}
    if context.properties.get("input_values_validate") == "STRICT":
        missing = sorted(name for name, default in declared.items() if default is None and name not in given)
        if missing:
            raise ResourceFailed(f"the input {missing[0]} has no value")
    values = {name: _text(value) for name, value in {**declared, **given}.items()}
    record = context.record
    known = {
        "deploy_server_id": str(context.properties["server"]),
        "deploy_action": action,
        "deploy_stack_id": f"{context.stack.name}/{context.stack.id}",
        "deploy_resource_name": record.name,
        "deploy_signal_transport": context.properties["signal_transport"],
    }
    if context.properties["signal_transport"] != "NO_SIGNAL":
        known["deploy_signal_id"] = context.services.signed_url(record, "signal")
        known["deploy_signal_verb"] = "POST"
    return {**values, **known}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _publish(context: Context, entry: dict[str, Any] | None) -> None:
    """Put a deployment into what the server's metadata tells, in place of its former form; None takes it out."""
    server = context.services.find(str(context.properties.get("server")))
    if server is None:
        return
    others = [item for item in server.data.get("deployments") or [] if item.get("record") != context.record.id]
    before = server.data.get("deployments") or []
    now = others if entry is None else [*others, {**entry, "record": context.record.id}]
    if now != before:
        server.data["deployments"] = now
        context.services.save(server)


class DeploymentGroup(GroupType):
    """One configuration on several servers, given by name."""

    names = (
        "OS::Heat::SoftwareDeploymentGroup",
        "OS::Heat::SoftwareDeployments",
        "OS::Heat::StructuredDeploymentGroup",
        "OS::Heat::StructuredDeployments",
    )
    needs = frozenset({"guests", "access"})
    schema: ClassVar[Schema] = {
        **_PROPERTIES,
        "servers": mapping(required=True, on_change=_UPDATE),
        "input_key": text(default="get_input", on_change=_UPDATE),
        "input_values_validate": text(default="LAX", allowed=("LAX", "STRICT"), on_change=_UPDATE),
    }

    def members(self, context: Context) -> Members:
        """A deployment a server."""
        given = {key: value for key, value in context.properties.items() if key != "servers" and value is not None}
        return {
            str(name): {"type": SoftwareDeployment.names[0], "properties": {**given, "server": server}}
            for name, server in (context.properties["servers"] or {}).items()
        }

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """`deploy_stdouts`, `deploy_stderrs`, `deploy_status_codes`: maps by server; any other: that output by server."""
        plural = {
            "deploy_stdouts": "deploy_stdout",
            "deploy_stderrs": "deploy_stderr",
            "deploy_status_codes": "deploy_status_code",
        }
        if name in ("refs", "refs_map", "attributes", "show", "outputs", "outputs_list"):
            return super().attribute(record, name, path, services)
        names = self.names_of(record, services)
        return walk({item: self.value(record, item, plural.get(name, name), [], services) for item in names}, path)


TYPES: tuple[type[ResourceType], ...] = (SoftwareDeployment, DeploymentGroup)
