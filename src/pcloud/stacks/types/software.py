"""Software configurations: texts for guests, and the boot data that they make.

A guest's `user_data` may name one of these instead of holding text: `boot_data` gives what is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any, ClassVar

import yaml

from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import Schema, anything, boolean, listing, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services

MAX_BOOT_DATA = 256 * 1024
"""Characters of one guest's boot data."""
INPUTS: Schema = {
    "name": text(required=True),
    "description": text(default=""),
    "type": text(default="String", allowed=("String", "Number", "CommaDelimitedList", "Json", "Boolean")),
    "default": anything(),
    "replace_on_change": boolean(default=False),
}
OUTPUTS: Schema = {
    "name": text(required=True),
    "description": text(default=""),
    "type": text(default="String", allowed=("String", "Number", "CommaDelimitedList", "Json", "Boolean")),
    "error_output": boolean(default=False),
}


class Configuration(ResourceType):
    """Base of configurations: text by which a guest is set up. A change makes a new one."""

    attributes = frozenset({"config"})

    async def create(self, context: Context) -> None:
        """Keep the text."""
        context.record.physical = context.token
        context.record.attributes = {"config": self.content(context)}

    def content(self, context: Context) -> Any:
        """Return the text (or the structure)."""
        return context.properties.get("config") or ""


class SoftwareConfig(Configuration):
    """A script, or the text for another tool."""

    names = ("OS::Heat::SoftwareConfig",)
    schema: ClassVar[Schema] = {
        "group": text(default="Heat::Ungrouped"),
        "inputs": listing(fields=INPUTS),
        "outputs": listing(fields=OUTPUTS),
        "options": mapping(),
        "config": text(),
    }


class StructuredConfig(Configuration):
    """A structure in which `get_input` stands for values that each deployment gives."""

    names = ("OS::Heat::StructuredConfig",)
    schema: ClassVar[Schema] = {
        **SoftwareConfig.schema,
        "config": mapping(),
        "input_key": text(default="get_input"),
        "input_values_validate": text(default="LAX", allowed=("LAX", "STRICT")),
    }

    def content(self, context: Context) -> Any:
        """The structure."""
        return context.properties.get("config") or {}


class SoftwareComponent(Configuration):
    """Several configurations, each for some actions."""

    names = ("OS::Heat::SoftwareComponent",)
    attributes = frozenset({"configs", "config"})
    schema: ClassVar[Schema] = {
        "configs": listing(
            required=True,
            fields={
                "actions": listing(default=["CREATE", "UPDATE"]),
                "config": text(required=True),
                "tool": text(required=True),
            },
        ),
        "inputs": listing(fields=INPUTS),
        "outputs": listing(fields=OUTPUTS),
        "options": mapping(),
    }

    async def create(self, context: Context) -> None:
        """Keep the texts."""
        context.record.physical = context.token
        context.record.attributes = {"configs": context.properties["configs"]}


class CloudConfig(Configuration):
    """cloud-init's own format, from a map."""

    names = ("OS::Heat::CloudConfig",)
    schema: ClassVar[Schema] = {"cloud_config": mapping()}

    def content(self, context: Context) -> Any:
        """The map as YAML, with cloud-init's first line."""
        body = yaml.safe_dump(context.properties.get("cloud_config") or {}, default_flow_style=False)
        return f"#cloud-config\n{body}"


class MultipartMime(Configuration):
    """Several texts as one, each a part."""

    names = ("OS::Heat::MultipartMime",)
    schema: ClassVar[Schema] = {
        "parts": listing(
            fields={
                "config": text(required=True),
                "filename": text(),
                "subtype": text(),
                "type": text(default="text", allowed=("text", "multipart")),
            }
        ),
        "group": text(default="Heat::Ungrouped"),
        "inputs": listing(fields=INPUTS),
        "outputs": listing(fields=OUTPUTS),
        "options": mapping(),
    }

    def content(self, context: Context) -> Any:
        """The parts in MIME's form; a part that is multipart itself brings in its own parts."""
        message = MIMEMultipart()
        # The boundary follows from the resource, so that the same parts give the same text after a crash.
        message.set_boundary(f"==={context.short}===")
        for part in context.properties.get("parts") or []:
            body = boot_data(context.services, part["config"])
            if part["type"] == "multipart":
                for inner in _parts_of(body):
                    message.attach(inner)
            else:
                message.attach(mime_part(body, part.get("subtype") or "", part.get("filename") or ""))
        return message.as_string()


_SUBTYPES = (
    ("#include", "x-include-url"),
    ("#!", "x-shellscript"),
    ("#cloud-boothook", "cloud-boothook"),
    ("#upstart-job", "upstart-job"),
    ("#part-handler", "part-handler"),
    ("#cloud-config", "cloud-config"),
)


def mime_part(body: str, subtype: str = "", filename: str = "") -> Message:
    """Return a text as a part, its kind told by its first line when it is not given."""
    found = subtype or next((kind for start, kind in _SUBTYPES if body.startswith(start)), "plain")
    part = MIMEText(body, _subtype=found, _charset="us-ascii" if body.isascii() else "utf-8")
    if filename:
        part.add_header("Content-Disposition", "attachment", filename=filename)
    return part


def _parts_of(body: str) -> list[Message]:
    import email

    parsed = email.message_from_string(body)
    if not parsed.is_multipart():
        return [mime_part(body)]
    return [part for part in parsed.walk() if not part.is_multipart()]


def configuration_of(services: Services, reference: Any) -> ResourceRecord | None:
    """Return the record of a configuration that a value names; None when it names none."""
    found = services.find(reference) if isinstance(reference, str) and len(reference) <= 64 else None
    known = {name for kind in TYPES for name in kind.names}
    return found if found is not None and found.type in known else None


def boot_data(services: Services, value: Any) -> str:
    """Return the text that a guest boots with: the value itself, or the content of the configuration that it names.

    ResourceFailed when it is too long.
    """
    record = configuration_of(services, value)
    content = record.attributes.get("config", "") if record is not None else value
    body = content if isinstance(content, str) else yaml.safe_dump(content)
    if len(body) > MAX_BOOT_DATA:
        raise ResourceFailed(f"boot data is longer than {MAX_BOOT_DATA} characters")
    return body


def filled(node: Any, values: Mapping[str, Any], key: str) -> Any:
    """Put inputs' values in place of `{get_input: NAME}`."""
    if isinstance(node, dict):
        if set(node) == {key} and isinstance(node[key], str):
            return values.get(node[key])
        return {name: filled(value, values, key) for name, value in node.items()}
    if isinstance(node, list):
        return [filled(item, values, key) for item in node]
    return node


TYPES: tuple[type[ResourceType], ...] = (
    SoftwareConfig,
    StructuredConfig,
    SoftwareComponent,
    CloudConfig,
    MultipartMime,
)
