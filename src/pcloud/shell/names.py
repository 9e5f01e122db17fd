"""Names that complete arguments of `pcloudsh`, asked from the daemon at the moment the Tab key is pressed."""

from __future__ import annotations

from collections.abc import Sequence

from pcloud.client.api import Client
from pcloud.shell.verb_table import VERBS


def names(client: Client, kind: str, before: Sequence[str]) -> list[str]:
    """Return what an argument of a kind can be; `before` are the arguments that stand before it on the line."""
    match kind:
        case "deployable":
            return [found.name for found in client.deployables()]
        case "assembly":
            return [found.name for found in client.assemblies()]
        case "member":
            return [found.name for found in client.deployable_assemblies(before[0])] if before else []
        case "resource":
            found = [part for assembly in client.assemblies() for part in assembly.resources]
            return sorted({part if isinstance(part, str) else part.name for part in found})
        case "template":
            return [found.name for found in client.templates()]
        case "jeos":
            return sorted({found.name for found in client.jeos()})
        case "arch":
            wanted = before[-1] if before else ""
            return sorted({found.arch for found in client.jeos() if found.name == wanted} or {"x86_64"})
        case "infrastructure":
            known = client.infrastructures()
            return [
                one if isinstance(one, str) else one["name"] for one in known if isinstance(one, str) or "name" in one
            ]
        case "monitor":
            return ["am", "none", "pm"]
        case "command":
            return list(VERBS)
    return []
