"""From a deployable to the manifest's plain mappings and lists: what is at its default is left out. Pure.

The inverse of `description` and `assemble`; both writers (YAML, JSON) use it.
"""

from __future__ import annotations

from typing import Any

from pcloud.model.assemble import (
    ASSEMBLY_ESCALATION,
    DEFAULT_FILE,
    DEPLOYABLE_ESCALATION,
    RESOURCE_ESCALATION,
    constraint_id,
    default_transport,
    resource_defaults,
)
from pcloud.model.deployable import (
    NO_LIMITS,
    Assembly,
    Deployable,
    Escalation,
    Parameter,
    Reference,
    Resource,
    ResourceLimits,
    ServiceDependency,
)
from pcloud.model.kinds import format_duration
from pcloud.model.templates import Catalogue

REDACTED = "********"
"""Stands for a secret in redacted documents."""

_DEPLOYABLE = Deployable(name="")
_ASSEMBLY = Assembly(name="")


def duration(seconds: float) -> Any:
    """A duration as the manifest has it: text with units, or a number where that would lose something."""
    return format_duration(seconds) if seconds == int(seconds) and seconds > 0 else seconds


def to_plain(deployable: Deployable, catalogue: Catalogue, *, redacted: bool = False) -> dict[str, Any]:
    """The whole manifest."""
    return _Writer(deployable, catalogue, redacted).deployable()


class _Writer:
    def __init__(self, deployable: Deployable, catalogue: Catalogue, redacted: bool) -> None:
        self.whole = deployable
        self.catalogue = catalogue
        self.redacted = redacted

    def deployable(self) -> dict[str, Any]:
        whole = self.whole
        plain: dict[str, Any] = {"deployable": whole.name, "infrastructure": whole.infrastructure}
        for key in ("uuid", "username", "monitor", "priority", "isolation"):
            if getattr(whole, key) != getattr(_DEPLOYABLE, key):
                plain[key] = getattr(whole, key)
        plain["assemblies"] = {assembly.name: self.assembly(assembly) for assembly in whole.assemblies}
        if whole.constraints:
            plain["constraints"] = [self.constraint(constraint) for constraint in whole.constraints]
        _escalation(plain, whole.escalation, DEPLOYABLE_ESCALATION)
        return plain

    def constraint(self, constraint: ServiceDependency) -> dict[str, Any]:
        plain: dict[str, Any] = {"first": constraint.first, "then": constraint.then}
        if not constraint.restart:
            plain["restart"] = False
        if constraint.id != constraint_id(constraint.first, constraint.then):
            plain["id"] = constraint.id
        return plain

    def assembly(self, assembly: Assembly) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key in ("uuid", "image", "host", "arch", "agent", "memory", "cpus", "apart", "saved_state"):
            if getattr(assembly, key) != getattr(_ASSEMBLY, key):
                plain[key] = getattr(assembly, key)
        if "memory" in plain:
            plain["memory"] = f"{assembly.memory}M"
        if assembly.transport != default_transport(self.whole.monitor):
            plain["transport"] = assembly.transport
        if assembly.after:
            plain["after"] = (
                [dependency.assembly for dependency in assembly.after]
                if all(dependency.restart for dependency in assembly.after)
                else {d.assembly: {} if d.restart else {"restart": False} for d in assembly.after}
            )
        if assembly.packages:
            plain["packages"] = list(assembly.packages)
        if assembly.files:
            plain["files"] = {path: self.file(assembly, path, content) for path, content in assembly.files}
        if assembly.commands:
            plain["commands"] = [list(command) for command in assembly.commands]
        if assembly.resources:
            plain["resources"] = {r.name: self.resource(r, assembly.image) for r in assembly.resources}
        timeouts = {
            key: duration(getattr(assembly, f"{key}_timeout"))
            for key in ("start", "stop")
            if getattr(assembly, f"{key}_timeout") != getattr(_ASSEMBLY, f"{key}_timeout")
        }
        if timeouts:
            plain["timeouts"] = timeouts
        _escalation(plain, assembly.escalation, ASSEMBLY_ESCALATION)
        return plain

    def limits(self, limits: ResourceLimits) -> dict[str, Any]:
        plain: dict[str, Any] = {"memory": f"{limits.memory}M"} if limits.memory else {}
        if limits.cpus:
            plain["cpus"] = limits.cpus
        if limits.tasks:
            plain["tasks"] = limits.tasks
        return plain

    def file(self, assembly: Assembly, path: str, content: str) -> Any:
        attributes = assembly.attributes_of(path)
        plain: dict[str, Any] = {"content": content}
        if attributes.mode != DEFAULT_FILE.mode:
            plain["mode"] = f"{attributes.mode:04o}"
        if attributes.owner != DEFAULT_FILE.owner:
            plain["owner"] = attributes.owner
        return plain if len(plain) > 1 else content

    def resource(self, resource: Resource, image: str) -> dict[str, Any]:
        defaults = resource_defaults(self.catalogue, resource.template, image)
        plain: dict[str, Any] = {}
        if resource.template:
            plain["template"] = resource.template
        agent = (resource.resource_class, resource.provider, resource.type)
        if agent != (defaults.resource_class, defaults.provider, defaults.type):
            plain["class"] = resource.resource_class
            if resource.provider:
                plain["provider"] = resource.provider
            plain["type"] = resource.type
        monitor = {}
        if resource.monitor_interval != defaults.monitor_interval:
            monitor["interval"] = duration(resource.monitor_interval)
        if resource.monitor_timeout != defaults.monitor_timeout:
            monitor["timeout"] = duration(resource.monitor_timeout)
        if resource.monitor_start_delay != defaults.monitor_start_delay:
            monitor["start_delay"] = duration(resource.monitor_start_delay)
        if monitor:
            plain["monitor"] = monitor["interval"] if list(monitor) == ["interval"] else monitor
        timeouts = {
            key: duration(getattr(resource, f"{key}_timeout"))
            for key in ("start", "stop")
            if getattr(resource, f"{key}_timeout") != getattr(defaults, f"{key}_timeout")
        }
        if timeouts:
            plain["timeouts"] = timeouts
        if resource.parameters:
            plain["parameters"] = {parameter.name: self.parameter(parameter) for parameter in resource.parameters}
        if resource.configure != defaults.configure:
            plain["configure"] = resource.configure[0] if len(resource.configure) == 1 else list(resource.configure)
        if resource.processes != defaults.processes:
            plain["processes"] = list(resource.processes)
        if resource.limits != NO_LIMITS:
            plain["limits"] = self.limits(resource.limits)
        if resource.after:
            plain["after"] = list(resource.after)
        _escalation(plain, resource.escalation, RESOURCE_ESCALATION)
        return plain

    def parameter(self, parameter: Parameter) -> Any:
        if isinstance(parameter.value, Reference):
            plain: dict[str, Any] = {"reference": f"{parameter.value.assembly}.{parameter.value.attribute}"}
        elif not parameter.secret:
            return parameter.value
        else:
            plain = {"value": REDACTED if self.redacted else parameter.value}
        if parameter.secret:
            plain["secret"] = True
        return plain


def _escalation(plain: dict[str, Any], escalation: Escalation, default: Escalation) -> None:
    if escalation != default:
        plain["escalation"] = {"failures": escalation.failures, "period": duration(escalation.period)}
