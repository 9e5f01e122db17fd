"""The tables that `pcloud` and `pcloudsh` share: deployables, one deployable, images, assemblies, templates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pcloud.shell.output import table
from pcloud.shell.text import clock, size

if TYPE_CHECKING:
    from pcloud.client import records
    from pcloud.model.status import DeployableStatus


def deployables(found: Sequence[records.DeployableSummary]) -> None:
    """Print the list of deployables."""
    now = time.time()
    rows = (
        (
            one.name,
            "paused" if one.paused else one.state,
            f"{one.running}/{one.assemblies}",
            one.infrastructure,
            clock(one.since, now=now),
            one.reason,
        )
        for one in found
    )
    table(
        ("NAME", "STATE", "RUNNING", "INFRASTRUCTURE", "SINCE", "REASON"),
        rows,
        empty="there are no deployables",
    )


def status(found: DeployableStatus) -> None:
    """Print a deployable with its assemblies and resources, each indented under what it is in."""
    now = time.time()
    rows = [(found.name, str(found.state), "", "", clock(found.since, now=now), _reason(found))]
    for assembly in found.assemblies:
        failures = str(assembly.failures or "")
        since = clock(assembly.since, now=now)
        rows.append((f"  {assembly.name}", assembly.state, assembly.address, failures, since, assembly.reason))
        rows += [
            (f"    {one.name}", one.state, "", str(one.failures or ""), clock(one.since, now=now), one.reason)
            for one in assembly.resources
        ]
    table(("NAME", "STATE", "ADDRESS", "FAILURES", "SINCE", "REASON"), rows, empty="")


def _reason(found: DeployableStatus) -> str:
    notes = (
        found.reason,
        "recovery is paused" if found.paused and "recovery is paused" not in found.reason else "",
        "shall be stopped" if found.target == "stopped" else "",
    )
    return "; ".join(text for text in notes if text)


def images(found: Sequence[records.Jeos]) -> None:
    """Print the list of images."""
    rows = ((one.name, one.arch, one.state, one.distribution, size(one.size)) for one in found)
    table(("NAME", "ARCH", "STATE", "DISTRIBUTION", "SIZE"), rows, empty="no image is known")


def assemblies(found: Sequence[records.LibraryAssembly]) -> None:
    """Print the library of assemblies."""
    rows = (
        (
            one.name,
            one.jeos,
            one.arch,
            ", ".join(part if isinstance(part, str) else part.name for part in one.resources),
            ", ".join(one.deployables),
        )
        for one in found
    )
    table(("NAME", "IMAGE", "ARCH", "RESOURCES", "DEPLOYABLES"), rows, empty="the library has no assemblies")


def resources(found: Sequence[records.LibraryResource]) -> None:
    """Print the resources of an assembly."""
    table(("NAME", "TEMPLATE"), ((one.name, one.template) for one in found), empty="the assembly has no resources")


def members(found: Sequence[records.DeployableAssembly]) -> None:
    """Print the assemblies of a deployable."""
    table(
        ("NAME", "STATE", "IMAGE"),
        ((one.name, one.state, one.image) for one in found),
        empty="the deployable has no assemblies",
    )


def templates(found: Sequence[records.Template]) -> None:
    """Print the resource templates."""
    table(("NAME", "DESCRIPTION"), ((one.name, one.description) for one in found), empty="no template is known")
