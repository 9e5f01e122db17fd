"""From what the tables read to the structs: defaults filled in, templates applied. Pure.

`resource_defaults` is the one place that knows what a resource is when its manifest says nothing; the writer asks it too,
which is what makes reading and writing inverse to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcloud.model.deployable import (
    NO_LIMITS,
    Assembly,
    Dependency,
    Deployable,
    Escalation,
    FileAttributes,
    Parameter,
    Reference,
    Resource,
    ResourceLimits,
    ServiceDependency,
)
from pcloud.model.errors import NotFound
from pcloud.model.kinds import INVALID
from pcloud.model.problems import Problems, join
from pcloud.model.templates import Catalogue, ResolvedTemplate

RESOURCE_ESCALATION = Escalation(failures=5, period=60.0)
ASSEMBLY_ESCALATION = Escalation(failures=3, period=600.0)
DEPLOYABLE_ESCALATION = Escalation(failures=3, period=3600.0)
DEFAULT_FILE = FileAttributes(path="")

_PLAIN = ResolvedTemplate()


def resource_defaults(catalogue: Catalogue, template: str, image: str) -> ResolvedTemplate:
    """What a resource of that template in that image is when nothing else is said about it. A template that is not known,
    or means nothing there, gives what a resource without template is."""
    if not template:
        return _PLAIN
    try:
        return catalogue.resolve(template, image)
    except NotFound:
        return _PLAIN


def default_transport(monitor: str) -> str:
    """The transport of assemblies that name none: active monitoring has an agent, passive has sshd."""
    return {"pm": "ssh", "none": "none"}.get(monitor, "remote")


def constraint_id(first: str, then: str) -> str:
    """The id of a constraint that has none of its own."""
    return f"{first}-then-{then}".replace(".", "-")


def escalation(values: Mapping[str, Any] | None, default: Escalation) -> Escalation:
    """An escalation, with what is missing from the default."""
    if not values:
        return default
    return Escalation(failures=values.get("failures", default.failures), period=values.get("period", default.period))


class Assembler:
    """Makes one deployable from the values of its tables; notes in `problems` what only shows here."""

    def __init__(self, problems: Problems, catalogue: Catalogue) -> None:
        self.problems = problems
        self.catalogue = catalogue

    def deployable(self, values: Mapping[str, Any]) -> Deployable:
        """Make the deployable. Parts that are INVALID become empty ones of their name, so that references to them hold."""
        monitor = values.get("monitor", "am")
        simple = ("uuid", "infrastructure", "username", "priority", "isolation")
        return Deployable(
            name=values.get("deployable", ""),
            monitor=monitor,
            assemblies=tuple(self.assembly(name, part, monitor) for name, part in values.get("assemblies", {}).items()),
            constraints=tuple(self.constraint(part) for part in values.get("constraints", ()) if len(part) > 1),
            escalation=escalation(values.get("escalation"), DEPLOYABLE_ESCALATION),
            **{key: values[key] for key in simple if key in values},
        )

    def constraint(self, values: Mapping[str, Any]) -> ServiceDependency:
        first, then = values.get("first", ""), values.get("then", "")
        restart = values.get("restart", True)
        return ServiceDependency(
            id=values.get("id", constraint_id(first, then)), first=first, then=then, restart=restart
        )

    def assembly(self, name: str, values: Any, monitor: str) -> Assembly:
        if values is INVALID:
            return Assembly(name=name)
        path = join("assemblies", name)
        simple = ("uuid", "image", "host", "arch", "agent", "memory", "cpus", "apart", "saved_state")
        timeouts = values.get("timeouts", {})
        image = values.get("image", "")
        files = {at: part for at, part in values.get("files", {}).items() if part is not INVALID}
        attributes = [
            FileAttributes(
                path=at, mode=part.get("mode", DEFAULT_FILE.mode), owner=part.get("owner", DEFAULT_FILE.owner)
            )
            for at, part in files.items()
            if part.get("mode", DEFAULT_FILE.mode) != DEFAULT_FILE.mode
            or part.get("owner", DEFAULT_FILE.owner) != DEFAULT_FILE.owner
        ]
        return Assembly(
            name=name,
            packages=tuple(values.get("packages", ())),
            files=tuple((at, part.get("content", "")) for at, part in files.items()),
            file_attributes=tuple(attributes),
            commands=tuple(values.get("commands", ())),
            resources=tuple(
                self.resource(resource, part, image, join(join(path, "resources"), resource))
                for resource, part in values.get("resources", {}).items()
            ),
            after=tuple(
                Dependency(assembly=other, restart=True if part is INVALID else part.get("restart", True))
                for other, part in values.get("after", {}).items()
            ),
            escalation=escalation(values.get("escalation"), ASSEMBLY_ESCALATION),
            transport=values.get("transport", default_transport(monitor)),
            **{f"{key}_timeout": timeouts[key] for key in ("start", "stop") if key in timeouts},
            **{key: values[key] for key in simple if key in values},
        )

    def resource(self, name: str, values: Any, image: str, path: str) -> Resource:
        if values is INVALID:
            return Resource(name=name, resource_class="", type="")
        template = values.get("template", "")
        defaults = resource_defaults(self.catalogue, template, image)
        resource_class, provider, kind = self.agent(values, defaults, path)
        monitor, timeouts = values.get("monitor", {}), values.get("timeouts", {})
        if "timeout" in monitor and "monitor" in timeouts and monitor["timeout"] != timeouts["monitor"]:
            message = "the monitor's time-out is given twice, here and as 'timeouts.monitor'"
            self.problems.add("CONFLICTING_KEYS", message, f"{path}.monitor")
        return Resource(
            name=name,
            resource_class=resource_class,
            provider=provider,
            type=kind,
            template=template,
            monitor_interval=monitor.get("interval", defaults.monitor_interval),
            monitor_timeout=monitor.get("timeout", timeouts.get("monitor", defaults.monitor_timeout)),
            monitor_start_delay=monitor.get("start_delay", defaults.monitor_start_delay),
            start_timeout=timeouts.get("start", defaults.start_timeout),
            stop_timeout=timeouts.get("stop", defaults.stop_timeout),
            parameters=tuple(
                self.parameter(key, part, f"{path}.parameters.{key}")
                for key, part in values.get("parameters", {}).items()
                if part is not INVALID
            ),
            configure=tuple(values.get("configure", defaults.configure)),
            escalation=escalation(values.get("escalation"), RESOURCE_ESCALATION),
            processes=tuple(values.get("processes", defaults.processes)),
            after=tuple(values.get("after", ())),
            limits=ResourceLimits(**values["limits"]) if values.get("limits") else NO_LIMITS,
        )

    def agent(self, values: Mapping[str, Any], defaults: ResolvedTemplate, path: str) -> tuple[str, str, str]:
        """Class, provider and type: as typed, else the template's. A class of one's own drops the template's provider."""
        parts = values.get("type", "").split(":")
        resource_class = values.get("class", defaults.resource_class)
        provider = values.get("provider", "" if "class" in values else defaults.provider)
        if len(parts) > 1:
            if "class" in values or "provider" in values:
                message = "a type with ':' says class and provider already, they may not be given beside it"
                self.problems.add("CONFLICTING_KEYS", message, f"{path}.type")
            resource_class = parts[0]
            provider = parts[1] if len(parts) == 3 else ""
        kind = parts[-1] or defaults.type
        return resource_class, provider, kind

    def parameter(self, name: str, values: Mapping[str, Any], path: str) -> Parameter:
        secret = values.get("secret", False)
        if "reference" in values:
            if "value" in values:
                self.problems.add("CONFLICTING_KEYS", "a parameter has a value or a reference, not both", path)
            assembly, _, attribute = values["reference"].rpartition(".")
            return Parameter(name=name, value=Reference(assembly=assembly, attribute=attribute), secret=secret)
        if "value" not in values and not any(found.path.startswith(path) for found in self.problems.found):
            self.problems.add("MISSING_KEY", "a parameter needs 'value' or 'reference'", path)
        return Parameter(name=name, value=values.get("value", ""), secret=secret)
