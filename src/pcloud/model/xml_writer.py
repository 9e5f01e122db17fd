"""Writes the XML document: the original's elements with everything it can say, ours where it can not. Pure."""

from __future__ import annotations

from typing import Any

from lxml import etree

from pcloud.model.assemble import DEFAULT_FILE, constraint_id, default_transport, resource_defaults
from pcloud.model.deployable import NO_LIMITS, Assembly, Deployable, Escalation, Parameter, Reference, Resource
from pcloud.model.plain import REDACTED
from pcloud.model.templates import Catalogue

_ASSEMBLY = Assembly(name="")
_DEPLOYABLE = Deployable(name="")
_Element = etree._Element


def write(deployable: Deployable, catalogue: Catalogue, *, redacted: bool = False) -> bytes:
    """The document in UTF-8, with a final line feed."""
    root = etree.Element("deployable", name=deployable.name)
    _set(root, "uuid", deployable.uuid, "")
    root.set("infrastructure", deployable.infrastructure)
    for key in ("monitor", "username", "priority", "isolation"):
        _set(root, key, getattr(deployable, key), getattr(_DEPLOYABLE, key))
    _escalation(root, deployable.escalation)
    assemblies = etree.SubElement(root, "assemblies")
    for assembly in deployable.assemblies:
        _assembly(assemblies, assembly, deployable, catalogue, redacted)
    if deployable.constraints:
        constraints = etree.SubElement(root, "constraints")
        for constraint in deployable.constraints:
            first, then = (f"rsc_{member.replace('.', '_', 1)}" for member in (constraint.first, constraint.then))
            element = etree.SubElement(constraints, "service_dependency", id=constraint.id, first=first, then=then)
            if constraint.id == constraint_id(constraint.first, constraint.then):
                del element.attrib["id"]
            _set(element, "restart", constraint.restart, True)
    _indent(root)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8") + b"\n"


def _set(element: _Element, name: str, value: Any, default: Any) -> None:
    if value != default:
        element.set(name, _text(value))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else repr(value)
    return str(value)


def _escalation(element: _Element, escalation: Escalation) -> None:
    element.set("escalation_failures", _text(escalation.failures))
    element.set("escalation_period", _text(escalation.period))


def _texts(parent: _Element, tag: str, child: str, texts: tuple[str, ...]) -> None:
    element = etree.SubElement(parent, tag)
    for text in texts:
        etree.SubElement(element, child).text = text


def _assembly(
    parent: _Element, assembly: Assembly, deployable: Deployable, catalogue: Catalogue, redacted: bool
) -> None:
    element = etree.SubElement(parent, "assembly", name=assembly.name)
    for key in (
        "uuid",
        "image",
        "host",
        "arch",
        "agent",
        "memory",
        "cpus",
        "apart",
        "saved_state",
        "start_timeout",
        "stop_timeout",
    ):
        _set(element, key, getattr(assembly, key), getattr(_ASSEMBLY, key))
    _set(element, "transport", assembly.transport, default_transport(deployable.monitor))
    _escalation(element, assembly.escalation)
    if assembly.after:
        after = etree.SubElement(element, "after")
        for dependency in assembly.after:
            _set(etree.SubElement(after, "assembly", name=dependency.assembly), "restart", dependency.restart, True)
    if assembly.packages:
        _texts(element, "packages", "package", assembly.packages)
    if assembly.files:
        files = etree.SubElement(element, "files")
        for path, content in assembly.files:
            attributes = assembly.attributes_of(path)
            file = etree.SubElement(files, "file", path=path)
            if attributes.mode != DEFAULT_FILE.mode:
                file.set("mode", f"{attributes.mode:04o}")
            _set(file, "owner", attributes.owner, DEFAULT_FILE.owner)
            file.text = content
    if assembly.commands:
        commands = etree.SubElement(element, "commands")
        for command in assembly.commands:
            _texts(commands, "command", "argument", command)
    services = etree.SubElement(element, "services")
    for resource in assembly.resources:
        _service(services, resource, assembly, catalogue, redacted)


def _service(parent: _Element, resource: Resource, assembly: Assembly, catalogue: Catalogue, redacted: bool) -> None:
    defaults = resource_defaults(catalogue, resource.template, assembly.image)
    element = etree.SubElement(parent, "service", name=resource.name)
    element.set("class", resource.resource_class)
    _set(element, "provider", resource.provider, "")
    element.set("type", resource.type)
    _set(element, "template", resource.template, "")
    for key in ("monitor_interval", "monitor_timeout", "start_timeout", "stop_timeout"):
        element.set(key, _text(getattr(resource, key)))
    _set(element, "monitor_start_delay", resource.monitor_start_delay, defaults.monitor_start_delay)
    for key in ("memory", "cpus", "tasks"):
        _set(element, key, getattr(resource.limits, key), getattr(NO_LIMITS, key))
    _escalation(element, resource.escalation)
    if resource.parameters:
        parameters = etree.SubElement(element, "parameters")
        for parameter in resource.parameters:
            _parameter(parameters, parameter, redacted)
    if resource.configure != defaults.configure:
        if len(resource.configure) == 1:
            etree.SubElement(element, "configure_executable", url=resource.configure[0])
        else:
            _texts(element, "configure_executable", "argument", resource.configure)
    if resource.processes != defaults.processes:
        _texts(element, "processes", "process", resource.processes)
    if resource.after:
        after = etree.SubElement(element, "after")
        for other in resource.after:
            etree.SubElement(after, "service", name=other)


def _parameter(parent: _Element, parameter: Parameter, redacted: bool) -> None:
    element = etree.SubElement(parent, "parameter", name=parameter.name, type="scalar")
    _set(element, "secret", parameter.secret, False)
    if isinstance(parameter.value, Reference):
        reference = parameter.value
        etree.SubElement(element, "reference", assembly=reference.assembly, parameter=reference.attribute)
    else:
        hidden = redacted and parameter.secret
        etree.SubElement(element, "value").text = REDACTED if hidden else parameter.value


def _indent(element: _Element, level: int = 0) -> None:
    """Indent elements that hold only elements; texts are data and stay as they are."""
    if len(element):
        element.text = "\n" + "  " * (level + 1)
        for child in element:
            _indent(child, level + 1)
            child.tail = "\n" + "  " * (level + 1)
        element[-1].tail = "\n" + "  " * level
