"""The parts of a deployable that a user names: found, or refused with the names there are. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pcloud.model.deployable import Assembly, Deployable, Resource
from pcloud.model.errors import NotFound


def find_assembly(deployable: Deployable, name: str) -> Assembly:
    """Return an assembly by name. NotFound, code NO_SUCH_ASSEMBLY, with the names there are."""
    try:
        return deployable.assembly(name)
    except KeyError:
        raise NotFound.of(
            "NO_SUCH_ASSEMBLY",
            f"deployable {deployable.name} has no assembly `{name[:80]}`",
            hint=_known(one.name for one in deployable.assemblies),
        ) from None


def find_resource(deployable: Deployable, assembly: str, name: str) -> Resource:
    """Return a resource of an assembly by name. NotFound, code NO_SUCH_ASSEMBLY or NO_SUCH_RESOURCE."""
    found = find_assembly(deployable, assembly)
    try:
        return found.resource(name)
    except KeyError:
        raise NotFound.of(
            "NO_SUCH_RESOURCE",
            f"assembly {deployable.name}/{assembly} has no resource `{name[:80]}`",
            hint=_known(one.name for one in found.resources),
        ) from None


def check_part(deployable: Deployable, assembly: str, resource: str) -> None:
    """Refuse, as the two above do, a part that is not there; empty names ask for none."""
    if resource:
        find_resource(deployable, assembly, resource)
    elif assembly:
        find_assembly(deployable, assembly)


def _known(names: Iterable[str]) -> str:
    return f"it has: {', '.join(names) or 'none'}"
