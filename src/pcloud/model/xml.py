"""The XML document that other software sends, read and written. Pure.

Its elements are those of the original (`deployable/assemblies/assembly/services/service` …); what it could not say is in
more attributes and elements of the same style (the tables of attributes below). The reader turns them into the same tree
that a manifest is read into, so that both mean the same and are checked by the same rules. A document type is
refused before parsing, entities and network are off, sizes and depth are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lxml import etree

from pcloud.model import xml_writer
from pcloud.model.deployable import Deployable
from pcloud.model.document import DEFAULT_LIMITS, Limits, Node, Style, decode
from pcloud.model.manifest import read_tree
from pcloud.model.names import did_you_mean
from pcloud.model.problems import Position, Problems, quote
from pcloud.model.templates import Catalogue, default_catalogue

_Element = etree._Element
_ESCALATION = {"escalation_failures": ("escalation", "failures"), "escalation_period": ("escalation", "period")}
DEPLOYABLE_ATTRIBUTES = {
    "name": ("deployable",),
    **{key: (key,) for key in ("uuid", "monitor", "username", "infrastructure", "priority", "isolation")},
    **_ESCALATION,
}
ASSEMBLY_ATTRIBUTES = {
    **{
        key: (key,)
        for key in ("uuid", "image", "host", "arch", "agent", "transport", "memory", "cpus", "apart", "saved_state")
    },
    "start_timeout": ("timeouts", "start"),
    "stop_timeout": ("timeouts", "stop"),
    **_ESCALATION,
}
SERVICE_ATTRIBUTES = {
    **{key: (key,) for key in ("class", "provider", "type", "template")},
    **{key: ("limits", key) for key in ("memory", "cpus", "tasks")},
    "monitor_interval": ("monitor", "interval"),
    "monitor_timeout": ("monitor", "timeout"),
    "monitor_start_delay": ("monitor", "start_delay"),
    "start_timeout": ("timeouts", "start"),
    "stop_timeout": ("timeouts", "stop"),
    **_ESCALATION,
}
CONSTRAINT_ATTRIBUTES = {key: (key,) for key in ("id", "first", "then", "restart")}
"""Attributes of each element, and the path of the manifest's key that each one is."""
_RESOURCE_ID = re.compile(r"rsc_([a-z0-9-]+)_([A-Za-z0-9_-]+)")


def read_xml(
    data: bytes | str,
    *,
    file: str = "",
    catalogue: Catalogue | None = None,
    limits: Limits = DEFAULT_LIMITS,
    images_required: bool = True,
) -> Deployable:
    """Read the XML document; InvalidDocument with every problem, each with file, line and the path that the same
    thing has in a manifest. The original named images elsewhere: who knows what assemblies without `image` are made
    from sets `images_required` to false."""
    problems = Problems(file)
    text = decode(data, problems, limits)
    _refuse_doctype(text, problems)
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        encoding="utf-8",
    )
    try:
        root = etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        message = f"this is not XML: {error.msg or 'no element found'}"
        raise problems.stop("SYNTAX", message, at=(line or 0, max(column or 0, 0))) from None
    if root.tag != "deployable":
        message = f"the document's root is {quote(str(root.tag))}, 'deployable' is expected"
        raise problems.stop("WRONG_ROOT", message, at=_at(root))
    return read_tree(_Reader(problems).deployable(root), problems, catalogue, images_required=images_required)


def write_xml(deployable: Deployable, *, redacted: bool = False, catalogue: Catalogue | None = None) -> bytes:
    """Write the XML document; reading it gives the same deployable. Secrets are in it, unless `redacted`."""
    return xml_writer.write(deployable, catalogue or default_catalogue(), redacted=redacted)


def _refuse_doctype(text: str, problems: Problems) -> None:
    """A document type can only stand before the root element; nothing there is worth what it can do."""
    index = 0
    while True:
        while index < len(text) and text[index].isspace():
            index += 1
        for opening, closing in (("<?", "?>"), ("<!--", "-->")):
            if text.startswith(opening, index):
                end = text.find(closing, index)
                if end < 0:
                    return  # the parser says what is wrong
                index = end + len(closing)
                break
        else:
            break
    if text[index : index + 2] == "<!":
        at = (text.count("\n", 0, index) + 1, 0)
        hint = "send the document without <!DOCTYPE …> and entities"
        raise problems.stop("DOCTYPE_REFUSED", "a document type is not allowed", at=at, hint=hint)


def _at(element: _Element) -> Position:
    """Where an element stands; libxml2 keeps lines only."""
    line: Any = element.sourceline  # the stubs allow more than lxml gives
    return (line or 0, 0)


class _Reader:
    """Makes the tree; notes elements and attributes that have no meaning."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def node(self, element: _Element) -> Node:
        return Node({}, _at(element))

    def put(self, node: Node, keys: tuple[str, ...], value: Node) -> None:
        """Put a value into the mapping, below mappings that are made where they are missing."""
        *outer, last = keys
        for key in outer:
            assert isinstance(node.value, dict)
            node.keys.setdefault(key, value.at)
            node = node.value.setdefault(key, Node({}, value.at))
        assert isinstance(node.value, dict)
        node.value[last] = value
        node.keys[last] = value.at

    def complain(self, element: _Element, what: str, name: str, known: Mapping[str, object], at: Position) -> None:
        message = f"the element '{element.tag}' has no {what} {quote(name)}"
        self.problems.add("UNKNOWN_KEY", message, at=at, hint=did_you_mean(name, known))

    def attributes(self, element: _Element, known: Mapping[str, tuple[str, ...]], node: Node, *also: str) -> None:
        """Put the attributes into the node; empty ones say nothing."""
        for name, value in element.attrib.items():
            keys = known.get(str(name))
            if keys is not None:
                if value:
                    self.put(node, keys, Node(str(value), node.at, Style.UNTYPED))
            elif name not in also:
                self.complain(element, "attribute", str(name), {**known, **dict.fromkeys(also)}, _at(element))

    def children(self, element: _Element, known: Mapping[str, Callable[[_Element], None]]) -> None:
        for child in element:
            handle = known.get(str(child.tag))
            if handle is None:
                self.complain(element, "element", str(child.tag), known, _at(child))
            else:
                handle(child)

    def only(self, element: _Element, *attributes: str) -> None:
        """Note attributes of an element that has but these."""
        self.attributes(element, {}, self.node(element), *attributes)

    def text(self, element: _Element) -> Node:
        for child in element:
            self.complain(element, "element", str(child.tag), {}, _at(child))
        return Node(element.text or "", _at(element), Style.TEXT)

    def texts(self, element: _Element, child: str) -> Node:
        """A list of the texts of the children of that name."""
        found: list[Node] = []
        self.only(element)
        self.children(element, {child: lambda one: found.append(self.text(one))})
        return Node(list(found), _at(element))

    def named(self, parent: _Element, child: str, make: Callable[[_Element], Node], *, key: str = "name") -> Node:
        """A mapping of the children of that tag by one of their attributes."""
        result = self.node(parent)
        assert isinstance(result.value, dict)

        def add(element: _Element) -> None:
            assert isinstance(result.value, dict)
            name = str(element.get(key, ""))
            at = _at(element)
            if not name:
                self.problems.add("MISSING_KEY", f"the element '{child}' needs the attribute '{key}'", at=at)
            elif name in result.value:
                line = result.keys[name][0]
                message = f"the {child} {quote(name)} is there twice, first in line {line}"
                self.problems.add("DUPLICATE_NAME", message, at=at)
            else:
                result.value[name] = make(element)
                result.keys[name] = at

        self.only(parent)
        self.children(parent, {child: add})
        return result

    def deployable(self, root: _Element) -> Node:
        node = self.node(root)
        self.attributes(root, DEPLOYABLE_ATTRIBUTES, node)
        self.children(
            root,
            {
                "assemblies": lambda e: self.put(node, ("assemblies",), self.named(e, "assembly", self.assembly)),
                "constraints": lambda e: self.put(node, ("constraints",), self.constraints(e)),
            },
        )
        return node

    def constraints(self, parent: _Element) -> Node:
        found: list[Node] = []

        def add(element: _Element) -> None:
            node = self.node(element)
            self.attributes(element, CONSTRAINT_ATTRIBUTES, node)
            assert isinstance(node.value, dict)
            for key in ("first", "then"):
                member = node.value.get(key)
                # The original names them as the CIB does: rsc_ASSEMBLY_SERVICE.
                if member is not None and (match := _RESOURCE_ID.fullmatch(str(member.value))):
                    member.value = f"{match[1]}.{match[2]}"
            identifier = node.value.get("id")
            if identifier is not None and str(identifier.value)[:1].isdigit():
                # Numbers were allowed there; an id in the CIB is prefixed the same way by the original.
                identifier.value = f"depend_{identifier.value}"
            found.append(node)

        self.only(parent)
        self.children(parent, {"service_dependency": add, "service_dependancy": add})
        return Node(list(found), _at(parent))

    def assembly(self, element: _Element) -> Node:
        node = self.node(element)
        self.attributes(element, ASSEMBLY_ATTRIBUTES, node, "name")
        self.children(
            element,
            {
                "services": lambda e: self.put(node, ("resources",), self.named(e, "service", self.service)),
                "packages": lambda e: self.put(node, ("packages",), self.texts(e, "package")),
                "files": lambda e: self.put(node, ("files",), self.named(e, "file", self.file, key="path")),
                "commands": lambda e: self.put(node, ("commands",), self.commands(e)),
                "after": lambda e: self.put(node, ("after",), self.named(e, "assembly", self.dependency)),
            },
        )
        return node

    def file(self, element: _Element) -> Node:
        node = self.node(element)
        self.attributes(element, {"mode": ("mode",), "owner": ("owner",)}, node, "path")
        self.put(node, ("content",), self.text(element))
        return node

    def commands(self, parent: _Element) -> Node:
        found: list[Node] = []
        self.only(parent)
        self.children(parent, {"command": lambda element: found.append(self.texts(element, "argument"))})
        return Node(list(found), _at(parent))

    def dependency(self, element: _Element) -> Node:
        node = self.node(element)
        self.attributes(element, {"restart": ("restart",)}, node, "name")
        return node

    def service(self, element: _Element) -> Node:
        node = self.node(element)
        self.attributes(element, SERVICE_ATTRIBUTES, node, "name")
        assert isinstance(node.value, dict)
        resource_class = node.value.get("class")
        if resource_class is not None and resource_class.value != "ocf":
            # The original ignores the provider of every class but ocf, and documents of its time have one everywhere.
            node.value.pop("provider", None)
        self.children(
            element,
            {
                "parameters": lambda e: self.put(node, ("parameters",), self.named(e, "parameter", self.parameter)),
                "configure_executable": lambda e: self.put(node, ("configure",), self.configure(e)),
                "processes": lambda e: self.put(node, ("processes",), self.texts(e, "process")),
                "after": lambda e: self.put(node, ("after",), self.after(e)),
            },
        )
        return node

    def after(self, parent: _Element) -> Node:
        services = self.named(parent, "service", self.dependency)
        return Node([Node(name, at) for name, at in services.keys.items()], services.at)

    def parameter(self, element: _Element) -> Node:
        node = self.node(element)
        self.attributes(element, {"secret": ("secret",)}, node, "name", "type")

        def reference(child: _Element) -> None:
            self.only(child, "assembly", "parameter")
            text = f"{child.get('assembly', '')}.{child.get('parameter', '')}"
            self.put(node, ("reference",), Node(text, _at(child)))

        self.children(
            element,
            {"value": lambda child: self.put(node, ("value",), self.text(child)), "reference": reference},
        )
        return node

    def configure(self, element: _Element) -> Node:
        """Argument vector: `argument` children, or the `url` attribute or the text of the original, a path."""
        self.only(element, "url")
        found: list[Node] = []
        at = _at(element)
        self.children(element, {"argument": lambda child: found.append(self.text(child))})
        path = str(element.get("url", "")) or ("" if found else (element.text or "").strip())
        if path and found:
            message = "the executable is given twice, as 'url' and as 'argument'"
            self.problems.add("CONFLICTING_KEYS", message, at=at)
        return Node([Node(path, at)] if path else list(found), at)
