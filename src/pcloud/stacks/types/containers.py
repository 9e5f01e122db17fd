"""OS::Swift::Container, on the object store that the daemon is told of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from pcloud.objects.swift import Containers
from pcloud.stacks.platform import Platform
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, boolean, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, known
from pcloud.stacks.types.buckets import refusals
from pcloud.stacks.types.stored import claim

_LONGEST = 256
_UPDATE = OnChange.UPDATE
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")
_VALUE = re.compile(r"[\x20-\x7e]{0,256}\Z")


def _containers(context: Context) -> Containers:
    objects = context.services.platform.objects
    if objects.containers is None:
        raise ResourceFailed(objects.no_containers)
    return objects.containers


class Container(ResourceType):
    """A container."""

    names = ("OS::Swift::Container",)
    attributes = frozenset({"DomainName", "WebsiteURL", "RootURL", "show"})
    schema: ClassVar[Schema] = {
        "name": text(),
        "X-Container-Read": text(on_change=_UPDATE),
        "X-Container-Write": text(on_change=_UPDATE),
        "X-Container-Meta": mapping(on_change=_UPDATE),
        "X-Account-Meta": mapping(refused="the account belongs to all stacks"),
        "PurgeOnDelete": boolean(default=False, on_change=OnChange.NOTHING),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Names and headers that HTTP and Swift allow."""
        problems = []
        name = properties.get("name")
        if known(name) and (not name or "/" in name or len(quote(name, safe="")) > _LONGEST or name in (".", "..")):
            problems.append(_bad("name", f"'{name}' is no name of a container: 1 to 256 bytes without a slash"))
        meta = properties.get("X-Container-Meta")
        for key, value in meta.items() if isinstance(meta, dict) else ():
            if not _HEADER.match(str(key)):
                problems.append(_bad("X-Container-Meta", f"'{key}' is no name of a header"))
            elif isinstance(value, dict | list) or (known(value) and not _VALUE.match(str(value))):
                problems.append(_bad("X-Container-Meta", f"the value of '{key}' must be printable ASCII"))
        for key in ("X-Container-Read", "X-Container-Write"):
            value = properties.get(key)
            if known(value) and not re.match(r"[\x20-\x7e]*\Z", str(value)):
                problems.append(_bad(key, "this must be printable ASCII"))
        return problems

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """A store that speaks Swift must be there."""
        return refusals(self, platform.objects.no_containers) if platform.objects.containers is None else []

    async def create(self, context: Context) -> None:
        """Make it, with its headers."""
        containers, given = _containers(context), context.properties
        name = await claim(context, given.get("name"), 128, containers.exists)
        await containers.create(name, _headers(given))
        root = await containers.root()
        context.record.attributes = {
            "DomainName": urlsplit(root).netloc.partition(":")[0],
            "WebsiteURL": f"{root}/{quote(name, safe='')}",
            "RootURL": root,
        }

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Set its headers; those that are no longer given, or that an update that failed has set, are removed."""
        record = context.record
        headers = dict.fromkeys((*_headers(old), *record.data.get("set", ())), "") | _headers(context.properties)
        record.data["set"] = sorted(headers)
        await context.services.keep(record)
        if headers:
            await _containers(context).change(record.physical, headers)

    async def delete(self, context: Context) -> None:
        """Remove it: with all that is in it where PurgeOnDelete says so, else only if it is empty."""
        if context.record.physical:
            purge = bool(context.properties.get("PurgeOnDelete"))
            await _containers(context).delete(context.record.physical, purge=purge)

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """Tell whether it is gone."""
        return {} if await _containers(context).exists(context.record.physical) else None


def _headers(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the HTTP headers of the properties."""
    meta = given.get("X-Container-Meta") or {}
    headers = {f"X-Container-Meta-{key}".title(): str(value) for key, value in meta.items()}
    for key in ("X-Container-Read", "X-Container-Write"):
        if given.get(key):
            headers[key] = str(given[key])
    return headers


def _bad(key: str, sentence: str) -> PropertyProblem:
    return PropertyProblem(code="BAD_PROPERTY", message=sentence, path=(key,))


TYPES: tuple[type[ResourceType], ...] = (Container,)
