"""The XML document that other software sends, read and written. Pure.

Its root is `deployable`; `docs/xml.md` is its reference. An element becomes the same tree of positioned nodes that a
manifest becomes, so that both are checked by the same rules and an equal document gives an equal deployable. What the
original document could not express (images, packages, files, time-outs …) is carried by further attributes and elements. A
document type definition is refused: there is nothing in it that we would want, and entities are how XML attacks.
"""

from __future__ import annotations

from typing import Any

from lxml import etree

from pcloud.model.deployable import Assembly, Deployable, Reference, Resource
from pcloud.model.document import DEFAULT_LIMITS, Limits, Node, Style, decode
from pcloud.model.manifest import read_tree
from pcloud.model.plain import REDACTED, to_plain
from pcloud.model.problems import Position, Problems, quote
from pcloud.model.templates import Catalogue, default_catalogue

_RENAMED = {
    "escalation_failures": ("escalation", "failures"),
    "escalation_period": ("escalation", "period"),
    "monitor_interval": ("monitor", "interval"),
    "monitor_timeout": ("monitor", "timeout"),
    "start_timeout": ("timeouts", "start"),
    "stop_timeout": ("timeouts", "stop"),
}
"""Attributes that stand for a key in a mapping of the manifest."""


def read_xml(
    data: bytes | str, *, file: str = "", catalogue: Catalogue | None = None, limits: Limits = DEFAULT_LIMITS
) -> Deployable:
    """Read the XML document; InvalidDocument with every problem, each with file, line and path."""
    problems = Problems(file)
    text = decode(data, problems, limits)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root: Any = etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        raise problems.stop("SYNTAX", f"this is not XML: {error.msg}", at=(line or 0, column or 0)) from None
    if root.getroottree().docinfo.doctype:
        hint = "remove the <!DOCTYPE …> line"
        raise problems.stop("DOCTYPE_REFUSED", "a document type definition is not allowed", at=(1, 0), hint=hint)
    if root.tag != "deployable":
        raise problems.stop("WRONG_ROOT", f"the root is {quote(str(root.tag))}, 'deployable' is expected", at=_at(root))
    return read_tree(_Reader(problems, limits).deployable(root), problems, catalogue)


def write_xml(deployable: Deployable, *, redacted: bool = False, catalogue: Catalogue | None = None) -> bytes:
    """Write the XML document (UTF-8). Secrets are in it; `redacted` hides them, for people's eyes."""
    plain = to_plain(deployable, catalogue or default_catalogue(), redacted=redacted)
    root = _Writer(redacted).deployable(deployable, plain)
    etree.indent(root)
    return bytes(etree.tostring(root, xml_declaration=True, encoding="UTF-8"))


def _at(element: Any) -> Position:
    return (int(element.sourceline or 0), 0)


class _Reader:
    """Elements to nodes. Whatever it does not know becomes a key, about which the table of that place complains."""

    def __init__(self, problems: Problems, limits: Limits) -> None:
        self.problems = problems
        self.left = limits.nodes

    def deployable(self, element: Any) -> Node:
        node = self.attributes(element, {"name": "deployable"})
        for child in self.children(element):
            if child.tag == "assemblies":
                self.put(node, "assemblies", self.named(child, "assembly", self.assembly))
            elif child.tag == "constraints":
                found = [self.constraint(each) for each in self.only(child, "service_dependency", "service_dependancy")]
                self.put(node, "constraints", Node(list(found), _at(child)))
            else:
                self.unknown(child)
        return node

    def assembly(self, element: Any) -> Node:
        node = self.attributes(element, {"name": ""})
        for child in self.children(element):
            match child.tag:
                case "services":
                    self.put(node, "resources", self.named(child, "service", self.service))
                case "packages":
                    self.put(node, "packages", self.names(child, "package"))
                case "files":
                    self.put(node, "files", self.named(child, "file", self.file, key="path"))
                case "commands":
                    commands = [self.arguments(each) for each in self.only(child, "command")]
                    self.put(node, "commands", Node(list(commands), _at(child)))
                case "after":
                    self.put(node, "after", self.named(child, "assembly", self.dependency))
                case _:
                    self.unknown(child)
        return node

    def dependency(self, element: Any) -> Node:
        return self.attributes(element, {"name": ""})

    def service(self, element: Any) -> Node:
        node = self.attributes(element, {"name": ""})
        for child in self.children(element):
            match child.tag:
                case "parameters":
                    self.put(node, "parameters", self.named(child, "parameter", self.parameter))
                case "configure_executable":
                    inner = list(self.only(child, "argument"))
                    value = self.arguments(child) if inner else self.scalar((child.text or "").strip(), child)
                    self.put(node, "configure", value)
                case "processes":
                    self.put(node, "processes", self.names(child, "process"))
                case "after":
                    self.put(node, "after", self.names(child, "service"))
                case _:
                    self.unknown(child)
        return node

    def parameter(self, element: Any) -> Node:
        # `type` is there for the other software's sake: every value is text here.
        node = self.attributes(element, {"name": "", "type": ""})
        for child in self.children(element):
            if child.tag == "value":
                self.put(node, "value", Node(child.text or "", _at(child), Style.TEXT))
            elif child.tag == "reference":
                told = f"{child.get('assembly', '')}.{child.get('parameter', '')}"
                self.put(node, "reference", self.scalar(told, child))
            else:
                self.unknown(child)
        return node

    def file(self, element: Any) -> Node:
        node = self.attributes(element, {"path": ""})
        self.put(node, "content", Node(element.text or "", _at(element), Style.TEXT))
        for child in self.children(element):
            self.unknown(child)
        return node

    def constraint(self, element: Any) -> Node:
        node = self.attributes(element, {})
        assert isinstance(node.value, dict)
        for key in ("first", "then"):
            if key in node.value and isinstance(node.value[key].value, str):
                node.value[key].value = str(node.value[key].value).replace("/", ".")
        return node

    # --- parts

    def attributes(self, element: Any, renamed: dict[str, str]) -> Node:
        """A mapping of an element's attributes; `renamed` gives other keys, empty for those that are no key."""
        node = Node({}, _at(element), Style.UNTYPED)
        assert isinstance(node.value, dict)
        for name, value in element.attrib.items():
            scalar = self.scalar(value, element)
            inner = _RENAMED.get(name)
            if inner is not None:
                mapping = node.value.setdefault(inner[0], Node({}, _at(element)))
                node.keys[inner[0]] = _at(element)
                self.put(mapping, inner[1], scalar)
            elif key := renamed.get(name, name):
                self.put(node, key, scalar)
        return node

    def named(self, element: Any, tag: str, read: Any, key: str = "name") -> Node:
        """A mapping of child elements by their name."""
        node = Node({}, _at(element))
        for child in self.only(element, tag):
            name = child.get(key)
            if name is None:
                self.problems.add("MISSING_KEY", f"<{tag}> needs the attribute '{key}'", at=_at(child))
                continue
            self.put(node, name, read(child), twice=f"the {tag} {quote(name)} is there twice")
        return node

    def names(self, element: Any, tag: str) -> Node:
        """A list of the names of child elements."""
        return Node([self.scalar(child.get("name", ""), child) for child in self.only(element, tag)], _at(element))

    def arguments(self, element: Any) -> Node:
        found = [Node(child.text or "", _at(child), Style.TEXT) for child in self.only(element, "argument")]
        return Node(list(found), _at(element))

    def scalar(self, text: str, element: Any) -> Node:
        self.count(element)
        return Node(text, _at(element), Style.UNTYPED)

    def put(self, node: Node, key: str, value: Node, *, twice: str = "") -> None:
        assert isinstance(node.value, dict)
        if key in node.value:
            code = "DUPLICATE_NAME" if twice else "DUPLICATE_KEY"
            self.problems.add(code, twice or f"{quote(key)} is given twice", at=value.at)
            return
        node.value[key] = value
        node.keys[key] = value.at

    def children(self, element: Any) -> list[Any]:
        self.count(element)
        return [child for child in element if isinstance(child.tag, str)]

    def only(self, element: Any, *tags: str) -> list[Any]:
        """The children of these names; others are complained about."""
        found = []
        for child in self.children(element):
            if child.tag in tags:
                found.append(child)
            else:
                self.unknown(child, tags)
        return found

    def unknown(self, element: Any, allowed: tuple[str, ...] = ()) -> None:
        hint = f"allowed here: {', '.join(allowed)}" if allowed else ""
        self.problems.add("UNKNOWN_KEY", f"<{element.tag}> is not known here", at=_at(element), hint=hint)

    def count(self, element: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.problems.stop("DOCUMENT_TOO_COMPLEX", "the document has too many elements", at=_at(element))


class _Writer:
    """The manifest's plain mappings to elements; class, type and interval are always told, for other software's sake."""

    def __init__(self, redacted: bool) -> None:
        self.redacted = redacted

    def deployable(self, whole: Deployable, plain: dict[str, Any]) -> Any:
        root = etree.Element("deployable", name=whole.name)
        self.attributes(root, plain, "infrastructure", "uuid", "username", "monitor", "priority", "isolation")
        self.escalation(root, plain)
        assemblies = etree.SubElement(root, "assemblies")
        for assembly in whole.assemblies:
            self.assembly(assemblies, assembly, plain["assemblies"][assembly.name])
        if "constraints" in plain:
            constraints = etree.SubElement(root, "constraints")
            for given, told in zip(whole.constraints, plain["constraints"], strict=True):
                element = etree.SubElement(constraints, "service_dependency", id=given.id)
                self.attributes(element, told, "first", "then", "restart")
        return root

    def assembly(self, parent: Any, assembly: Assembly, plain: dict[str, Any]) -> None:
        element = etree.SubElement(parent, "assembly", name=assembly.name)
        self.attributes(element, plain, "uuid", "image", "arch", "agent", "transport", "memory", "cpus")
        self.timeouts(element, plain)
        self.escalation(element, plain)
        self.named(element, "packages", "package", plain.get("packages", ()))
        if assembly.files:
            files = etree.SubElement(element, "files")
            for path, content in assembly.files:
                told = plain["files"][path]
                file = etree.SubElement(files, "file", path=path)
                self.attributes(file, told if isinstance(told, dict) else {}, "mode", "owner")
                file.text = content
        if assembly.commands:
            commands = etree.SubElement(element, "commands")
            for command in assembly.commands:
                self.arguments(etree.SubElement(commands, "command"), command)
        if assembly.after:
            after = etree.SubElement(element, "after")
            for dependency in assembly.after:
                other = etree.SubElement(after, "assembly", name=dependency.assembly)
                if not dependency.restart:
                    other.set("restart", "false")
        if assembly.resources:
            services = etree.SubElement(element, "services")
            for resource in assembly.resources:
                self.service(services, resource, plain["resources"][resource.name])

    def service(self, parent: Any, resource: Resource, plain: dict[str, Any]) -> None:
        element = etree.SubElement(parent, "service", name=resource.name)
        element.set("class", resource.resource_class)
        if resource.provider:
            element.set("provider", resource.provider)
        element.set("type", resource.type)
        element.set("monitor_interval", _number(resource.monitor_interval))
        self.attributes(element, plain, "template")
        if isinstance(plain.get("monitor"), dict) and "timeout" in plain["monitor"]:
            element.set("monitor_timeout", _text(plain["monitor"]["timeout"]))
        self.timeouts(element, plain)
        self.escalation(element, plain)
        if resource.parameters:
            parameters = etree.SubElement(element, "parameters")
            for parameter in resource.parameters:
                told = etree.SubElement(parameters, "parameter", name=parameter.name, type="string")
                if parameter.secret:
                    told.set("secret", "true")
                if isinstance(parameter.value, Reference):
                    reference = parameter.value
                    etree.SubElement(told, "reference", assembly=reference.assembly, parameter=reference.attribute)
                else:
                    hidden = parameter.secret and self.redacted
                    etree.SubElement(told, "value").text = REDACTED if hidden else parameter.value
        if "configure" in plain:
            configure = etree.SubElement(element, "configure_executable")
            if len(resource.configure) == 1 and resource.configure[0] == resource.configure[0].strip():
                configure.text = resource.configure[0]
            else:
                self.arguments(configure, resource.configure)
        self.named(element, "processes", "process", plain.get("processes", ()))
        self.named(element, "after", "service", resource.after)

    def attributes(self, element: Any, plain: dict[str, Any], *names: str) -> None:
        for name in names:
            if name in plain:
                element.set(name, _text(plain[name]))

    def escalation(self, element: Any, plain: dict[str, Any]) -> None:
        if "escalation" in plain:
            element.set("escalation_failures", str(plain["escalation"]["failures"]))
            element.set("escalation_period", _text(plain["escalation"]["period"]))

    def timeouts(self, element: Any, plain: dict[str, Any]) -> None:
        for name, value in plain.get("timeouts", {}).items():
            element.set(f"{name}_timeout", _text(value))

    def named(self, parent: Any, group: str, tag: str, names: Any) -> None:
        if names:
            element = etree.SubElement(parent, group)
            for name in names:
                etree.SubElement(element, tag, name=name)

    def arguments(self, element: Any, words: Any) -> None:
        for word in words:
            etree.SubElement(element, "argument").text = word


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
