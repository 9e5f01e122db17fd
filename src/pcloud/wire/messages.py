"""The XML inside the frames: a small element tree, read and written safely, and the protocol's vocabulary.

Owns: names of elements, attributes, operations and call options (as `include/crm/lrmd*.h` upstream defines them).
Pure. Reading refuses document types and entities, bounds depth and number of elements, and needs UTF-8.
"""

from __future__ import annotations

from pyexpat import ExpatError, ParserCreate

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMAND, REPLY, NOTIFY, PROXY = "lrmd_command", "lrmd_reply", "lrmd_notify", "lrmd_ipc_proxy"
CALLDATA, RSC, RSC_OP, ATTRIBUTES, ALERT = "lrmd_calldata", "lrmd_rsc", "lrmd_rsc_op", "attributes", "lrmd_alert"

OP_REGISTER, OP_IPC_FWD = "register", "ipc_fwd"
OP_RSC_REG, OP_RSC_UNREG, OP_RSC_INFO = "lrmd_rsc_register", "lrmd_rsc_unregister", "lrmd_rsc_info"
OP_EXEC, OP_CANCEL, OP_POKE, OP_CHECK = "lrmd_rsc_exec", "lrmd_rsc_cancel", "lrmd_rsc_poke", "lrmd_check"
OP_NEW_CLIENT, OP_GET_RECURRING, OP_ALERT = "lrmd_rsc_new_client", "lrmd_get_recurring", "lrmd_alert_exec"

OPT_NOTIFY_ORIGINATOR = 2
"""Only the client that asked is told."""
OPT_DROP_RECURRING = 3
"""Of a registration: recurring operations end when the last client has gone."""
OPT_CHANGES_ONLY = 4
"""Of a recurring operation: tell the first result and every change, not every run."""

VERSION = "1.2"
"""The newest protocol version we speak; 1.1 is what Pacemaker 2.1.5 speaks."""

SIGNAL = "lrmd_pcloud_signal"
"""Attribute of our own on a notify: `exit` when a process's end triggered the monitor. Others ignore it."""

PATIENT = "lrmd_pcloud_patient"
"""Attribute of our own on a sign-on: its answer may wait until the guest has booted. Others ignore it."""

MAX_DEPTH = 128
MAX_ELEMENTS = 200_000


class MessageError(Exception):
    """The payload is not a message of the protocol."""


class Element:
    """An XML element: `tag`, `attributes`, `children` and the text between them."""

    __slots__ = ("attributes", "children", "tag", "text")

    def __init__(self, tag: str, attributes: dict[str, str] | None = None, *children: Element) -> None:
        self.tag = tag
        self.attributes: dict[str, str] = {} if attributes is None else attributes
        self.children: list[Element] = list(children)
        self.text = ""

    def get(self, name: str, default: str = "") -> str:
        """Return an attribute's value, or the default."""
        return self.attributes.get(name, default)

    def number(self, name: str, default: int = 0) -> int:
        """Return an attribute as a whole number; the default where it is absent or no number."""
        text = self.attributes.get(name)
        if text is None or len(text) > 20:
            return default
        try:
            return int(text)
        except ValueError:
            return default

    def set(self, name: str, value: str | int) -> Element:
        """Set an attribute and return the element."""
        self.attributes[name] = value if isinstance(value, str) else str(value)
        return self

    def child(self, tag: str) -> Element | None:
        """Return the first child of that name."""
        for child in self.children:
            if child.tag == tag:
                return child
        return None

    def find(self, tag: str) -> Element | None:
        """Return the first element of that name, this one or any below it."""
        stack = [self]
        while stack:
            element = stack.pop()
            if element.tag == tag:
                return element
            stack.extend(reversed(element.children))
        return None

    def to_bytes(self) -> bytes:
        """Return the XML text in UTF-8."""
        out: list[str] = []
        _write(self, out)
        return "".join(out).encode("utf-8", "replace")


_ESCAPES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;"}
_ESCAPES.update({ord("\t"): "&#9;", ord("\n"): "&#10;", ord("\r"): "&#13;"})
# What XML 1.0 can not carry, not even escaped (surrogates are replaced when the text is encoded).
_ESCAPES.update(dict.fromkeys([*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF], "\ufffd"))


def escape(text: str) -> str:
    """Return text as it is written inside an attribute; characters that XML does not know are replaced."""
    return text if text.isalnum() else text.translate(_ESCAPES)


def _write(element: Element, out: list[str]) -> None:
    out.append("<" + element.tag)
    for name, value in element.attributes.items():
        out.append(f' {name}="{escape(value)}"')
    if not element.children and not element.text:
        out.append("/>")
        return
    out.append(">" + escape(element.text))
    for child in element.children:
        _write(child, out)
    out.append(f"</{element.tag}>")


def parse(payload: bytes) -> Element:
    """Read one message; MessageError when it is not well-formed or not acceptable."""
    builder = _Builder()
    parser = ParserCreate("UTF-8")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = builder.refuse
    parser.EntityDeclHandler = builder.refuse
    parser.ProcessingInstructionHandler = builder.refuse
    try:
        parser.Parse(payload, True)
    except (ExpatError, UnicodeError, ValueError) as error:
        raise MessageError(f"not well-formed XML: {error}") from error
    if builder.root is None:
        raise MessageError("an empty document")
    return builder.root


class _Builder:
    __slots__ = ("count", "root", "stack")

    def __init__(self) -> None:
        self.root: Element | None = None
        self.stack: list[Element] = []
        self.count = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.count += 1
        if len(self.stack) >= MAX_DEPTH or self.count > MAX_ELEMENTS:
            raise MessageError("too many elements, or nested too deeply")
        element = Element(tag, attributes)
        if self.stack:
            self.stack[-1].children.append(element)
        else:
            self.root = element
        self.stack.append(element)

    def end(self, _tag: str) -> None:
        self.stack.pop()

    def data(self, text: str) -> None:
        if self.stack and not text.isspace():
            self.stack[-1].text += text

    def refuse(self, *_ignored: object) -> None:
        raise MessageError("document types, entities and processing instructions are refused")


# --- parameters


def attributes_element(parameters: Mapping[str, str]) -> Element:
    """Return the `<attributes>` of an operation. Names that are no XML names travel as `<param name= value=>`."""
    element = Element(ATTRIBUTES)
    for name, value in parameters.items():
        if is_xml_name(name):
            element.attributes[name] = value
        else:
            element.children.append(Element("param", {"name": name, "value": value}))
    return element


def is_xml_name(name: str) -> bool:
    """Return whether a parameter's name can be an attribute's name (ASCII subset)."""
    return (
        bool(name)
        and (name[0].isalpha() or name[0] == "_")
        and name.isascii()
        and all(c.isalnum() or c in "_.-" for c in name)
    )


def read_attributes(parent: Element) -> dict[str, str]:
    """Return the parameters of an operation or alert: the inverse of `attributes_element`."""
    element = parent.find(ATTRIBUTES)
    if element is None:
        return {}
    parameters = dict(element.attributes)
    for child in element.children:
        if child.tag == "param":
            parameters[child.get("name")] = child.get("value")
    return parameters


# --- requests (client side)


def command(op: str, *data: Element, options: int = 0, timeout: int = 0) -> Element:
    """Return a request; `lrmd_remote_msg_id` and `lrmd_remote_msg_type` are set when it is sent."""
    element = Element(COMMAND, {"t": "lrmd", "lrmd_op": op, "lrmd_timeout": str(timeout), "lrmd_callopt": str(options)})
    if data:
        element.children.append(Element(CALLDATA, None, *data))
    return element


def register(name: str, *, version: str = VERSION, provider: bool = False) -> Element:
    """Return the sign-on. `provider` offers to relay the guest's cluster IPC."""
    attributes = {"t": "lrmd", "lrmd_op": OP_REGISTER, "lrmd_clientname": name, "lrmd_protocol_version": version}
    attributes[PATIENT] = "true"
    if provider:
        attributes["lrmd_is_ipc_provider"] = "true"
    return Element(COMMAND, attributes)


def resource(resource_id: str, **attributes: str | int) -> Element:
    """Return an `<lrmd_rsc>`; keyword arguments become `lrmd_…` attributes."""
    element = Element(RSC, {"lrmd_origin": "pcloud", "lrmd_rsc_id": resource_id})
    for name, value in attributes.items():
        element.set("lrmd_" + name, value)
    return element


def iterate(element: Element) -> Iterator[Element]:
    """Yield the element and everything below it, in document order."""
    stack = [element]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(current.children))
