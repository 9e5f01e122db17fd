"""The order between things, and the cycles in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from pcloud.model.deployable import Deployable

MAX_CYCLES = 10
"""More cycles than this are not looked for: mending the first ones mostly mends the rest."""


def find_cycles(before: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return cycles of the graph {thing: things that come before it}, each as the things in starting order. After each one
    its last edge is taken away, so that independent cycles are all found; at most MAX_CYCLES."""
    graph = {node: dict.fromkeys(predecessors) for node, predecessors in before.items()}
    cycles: list[list[str]] = []
    while len(cycles) < MAX_CYCLES:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            # graphlib lists each node before the one that waits for it, with the first repeated at the end.
            *cycle, _ = error.args[1]
            graph[cycle[0]].pop(cycle[-1], None)
            smallest = cycle.index(min(cycle))
            cycles.append(cycle[smallest:] + cycle[:smallest])
        else:
            break
    return cycles


def assembly_order(deployable: Deployable) -> dict[str, list[str]]:
    """Which assemblies come before which."""
    known = {assembly.name for assembly in deployable.assemblies}
    return {a.name: [d.assembly for d in a.after if d.assembly in known] for a in deployable.assemblies}


def start_order(deployable: Deployable) -> dict[str, list[str]]:
    """Everything that orders starts in one graph: resources (`web.httpd`), and for each assembly the moments before its
    first resource (`web`) and after its last one (`web, complete`). Unknown names and things that come after themselves are
    left out."""
    known = {assembly.name for assembly in deployable.assemblies}
    before: dict[str, list[str]] = {}
    for assembly in deployable.assemblies:
        name = assembly.name
        before[name] = [f"{d.assembly}, complete" for d in assembly.after if d.assembly in known - {name}]
        inside = dict.fromkeys(resource.name for resource in assembly.resources)
        before[f"{name}, complete"] = [name, *(f"{name}.{resource}" for resource in inside)]
        for resource in assembly.resources:
            others = [f"{name}.{other}" for other in resource.after if other in inside and other != resource.name]
            before[f"{name}.{resource.name}"] = [name, *others]
    for constraint in deployable.constraints:
        if constraint.first in before and constraint.then in before and constraint.first != constraint.then:
            before[constraint.then].append(constraint.first)
    return before
