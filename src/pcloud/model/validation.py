"""What must hold between the parts of a deployable: names that are referred to exist, nothing is there twice, the order has
no cycle, agents are complete. Pure.

The form of single values is checked where they are read (`pcloud.model.kinds`); who builds a deployable by hand sends it
through `pcloud.model.manifest.checked`, which does both. Codes: UNKNOWN_ASSEMBLY, UNKNOWN_RESOURCE, UNKNOWN_TEMPLATE,
UNKNOWN_IMAGE, IMAGE_IS_A_DISK, IMAGE_AS_IT_IS, UNKNOWN_DISTRIBUTION, TEMPLATE_NOT_FOR_DISTRIBUTION, UNKNOWN_WORD,
INVALID_REFERENCE, SELF_REFERENCE, DEPENDENCY_CYCLE, DUPLICATE_NAME, MISSING_KEY, MISSING_IMAGE,
CONFLICTING_KEYS, RESERVED_NAME, OUT_OF_RANGE, LIMITS_NOT_SUPPORTED.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pcloud.model import names
from pcloud.model.deployable import NO_LIMITS, Assembly, Deployable, Escalation, Reference, Resource
from pcloud.model.errors import NotFound, Problem
from pcloud.model.names import did_you_mean
from pcloud.model.order import assembly_order, find_cycles, start_order
from pcloud.model.problems import MAX_PROBLEMS, join, quote
from pcloud.model.templates import Catalogue, default_catalogue

IMAGE_BUILDERS = frozenset({"lxc", "libvirt"})
"""Infrastructures whose images are made here from a JEOS, so that an unknown image's name is a mistake."""


HOSTS = "hosts"
"""The infrastructure whose guests are hosts that are there already."""


class _Validation:
    def __init__(self, deployable: Deployable, catalogue: Catalogue, images_required: bool) -> None:
        self.deployable = deployable
        self.catalogue = catalogue
        self.images_required = images_required
        self.found: list[Problem] = []
        self.assemblies = {assembly.name for assembly in deployable.assemblies}

    def add(self, code: str, message: str, path: str, hint: str = "") -> None:
        self.found.append(Problem(code=code, message=message, path=path, hint=hint))

    def near(self, word: str, known: Iterable[str]) -> str:
        """`did_you_mean` for problems that are told; to look for near words of the others could take minutes."""
        return did_you_mean(word, known) if len(self.found) < MAX_PROBLEMS else ""

    def run(self) -> list[Problem]:
        self.escalation(self.deployable.escalation, "escalation")
        self.unique("assembly", (assembly.name for assembly in self.deployable.assemblies), "assemblies")
        for assembly in self.deployable.assemblies:
            self.assembly(assembly, join("assemblies", assembly.name))
        hosts = Counter(assembly.host for assembly in self.deployable.assemblies if assembly.host)
        for host in sorted(host for host, times in hosts.items() if times > 1):
            self.add("DUPLICATE_NAME", f"two assemblies are the host {quote(host)}", "assemblies", "each needs its own")
        self.constraints()
        self.cycles()
        return self.found

    def unique(self, what: str, given: Iterable[str], path: str) -> None:
        seen: set[str] = set()
        for name in given:
            if name in seen:
                self.add("DUPLICATE_NAME", f"the {what} {quote(name)} is there twice", join(path, name))
            seen.add(name)

    def escalation(self, escalation: Escalation, path: str) -> None:
        if escalation.failures < 1 or not escalation.period > 0:
            self.add("OUT_OF_RANGE", "failures must be at least 1 and the period above 0", path)

    def assembly(self, assembly: Assembly, path: str) -> None:
        if assembly.name in names.RESERVED_GUEST_NAMES:
            self.add("RESERVED_NAME", f"no guest can be called {quote(assembly.name)}", path)
        self.escalation(assembly.escalation, f"{path}.escalation")
        self.image(assembly, path)
        self.host(assembly, path)
        self.unique("resource", (resource.name for resource in assembly.resources), f"{path}.resources")
        self.unique("file", (file for file, _ in assembly.files), f"{path}.files")
        self.unique("dependency", (dependency.assembly for dependency in assembly.after), f"{path}.after")
        for dependency in assembly.after:
            other = dependency.assembly
            if other == assembly.name:
                message = f"the assembly {quote(other)} can not come after itself"
                self.add("SELF_REFERENCE", message, f"{path}.after.{other}")
            else:
                self.known_assembly(other, f"{path}.after.{other}")
        if assembly.transport == "none" and assembly.resources:
            message = "an assembly whose transport is 'none' can hold no resources: nobody could start them"
            self.add("CONFLICTING_KEYS", message, f"{path}.transport", "use 'remote' or 'ssh'")
        inside = {resource.name for resource in assembly.resources}
        for resource in assembly.resources:
            self.resource(assembly, resource, inside, f"{path}.resources.{resource.name}")

    def image(self, assembly: Assembly, path: str) -> None:
        built = self.deployable.infrastructure in IMAGE_BUILDERS
        if not assembly.image:
            if self.images_required and built:
                message = "the assembly needs an 'image'"
                self.add("MISSING_IMAGE", message, path, self.near("", self.catalogue.distributions))
        elif built and assembly.image not in self.catalogue.distributions:
            message = f"there is no image {quote(assembly.image)}"
            hint = self.near(assembly.image, self.catalogue.distributions)
            self.add("UNKNOWN_IMAGE", message, f"{path}.image", hint)
        elif assembly.image in self.catalogue.imported:
            self.imported(assembly, path)

    def host(self, assembly: Assembly, path: str) -> None:
        """A host is there already: it is named, and nothing is made of it."""
        if self.deployable.infrastructure != HOSTS:
            if assembly.host:
                message = f"guests of {quote(self.deployable.infrastructure)} are made, they are no hosts"
                self.add("CONFLICTING_KEYS", message, f"{path}.host", f"write `infrastructure: {HOSTS}`")
            return
        if not assembly.host:
            message = "the assembly needs a 'host'"
            self.add("MISSING_KEY", message, path, "name one of [infrastructures.hosts.host] of the configuration")
        for key in ("packages", "files", "commands", "memory", "cpus"):
            if getattr(assembly, key):
                message = "a host is used as it is: nothing is put on it or changed of it here"
                self.add("CONFLICTING_KEYS", message, f"{path}.{key}", "leave it out")

    def imported(self, assembly: Assembly, path: str) -> None:
        """An image made by others is a disk, and used as it is."""
        what = f"the image {quote(assembly.image)} was imported"
        if self.deployable.infrastructure == "lxc":
            message = f"{what}: it is a disk, which containers are not made from"
            self.add("IMAGE_IS_A_DISK", message, f"{path}.image", "use an infrastructure of machines, such as libvirt")
        for key in ("packages", "files", "commands"):
            if getattr(assembly, key):
                message = f"{what} and is used as it is: nothing can be put into it here"
                self.add("IMAGE_AS_IT_IS", message, f"{path}.{key}", "put it into the image, or build one from a JEOS")
        if assembly.transport == "remote" and assembly.agent == "pcloud":
            message = f"{what} and does not hold our agent"
            self.add("IMAGE_AS_IT_IS", message, f"{path}.transport", "write `transport: ssh`")

    def known_assembly(self, name: str, path: str) -> bool:
        if name not in self.assemblies:
            hint = self.near(name, self.assemblies)
            self.add("UNKNOWN_ASSEMBLY", f"there is no assembly {quote(name)}", path, hint)
            return False
        return True

    def resource(self, assembly: Assembly, resource: Resource, inside: set[str], path: str) -> None:
        self.escalation(resource.escalation, f"{path}.escalation")
        self.agent(assembly, resource, path)
        self.limits(assembly, resource, path)
        self.unique("parameter", (parameter.name.upper() for parameter in resource.parameters), f"{path}.parameters")
        for parameter in resource.parameters:
            place = f"{path}.parameters.{parameter.name}"
            if parameter.name.startswith(names.RESERVED_PARAMETER_PREFIXES):
                self.add("RESERVED_NAME", f"the name {quote(parameter.name)} is the executor's own", place)
            if isinstance(parameter.value, Reference):
                if parameter.value.attribute not in names.ATTRIBUTES:
                    hint = f"write ASSEMBLY.{' or ASSEMBLY.'.join(names.ATTRIBUTES)}"
                    message = f"an assembly has no attribute {quote(parameter.value.attribute)}"
                    self.add("INVALID_REFERENCE", message, f"{place}.reference", hint)
                self.known_assembly(parameter.value.assembly, f"{place}.reference")
        for other in resource.after:
            if other == resource.name:
                message = f"the resource {quote(other)} can not come after itself"
                self.add("SELF_REFERENCE", message, f"{path}.after.{other}")
            elif other not in inside:
                message = f"the assembly {quote(assembly.name)} has no resource {quote(other)}"
                hint = self.near(other, inside - {resource.name})
                if "." in other or other in self.assemblies:
                    hint = "order between resources of different assemblies stands in the deployable's 'constraints'"
                self.add("UNKNOWN_RESOURCE", message, f"{path}.after.{other}", hint)

    def limits(self, assembly: Assembly, resource: Resource, path: str) -> None:
        """Only systemd keeps a service's processes together, and only what talks to it can have it limit them."""
        if resource.limits == NO_LIMITS:
            return
        if min(resource.limits.memory, resource.limits.cpus, resource.limits.tasks) < 0:
            self.add("OUT_OF_RANGE", "limits can not be below 0", f"{path}.limits")
        if resource.resource_class != "systemd":
            message = (
                f"a service of class {quote(resource.resource_class)} can not be limited, one of class 'systemd' can"
            )
            hint = "limit its guest: `memory` and `cpus` of the assembly"
            self.add("LIMITS_NOT_SUPPORTED", message, f"{path}.limits", hint)
        elif assembly.transport == "remote" and assembly.agent == "pacemaker":
            message = "Pacemaker's own agent can not limit a service"
            self.add("LIMITS_NOT_SUPPORTED", message, f"{path}.limits", "use `agent: pcloud`, or `transport: ssh`")

    def agent(self, assembly: Assembly, resource: Resource, path: str) -> None:
        if resource.template and not (resource.resource_class and resource.type):
            try:
                self.catalogue.resolve(resource.template, assembly.image)
            except NotFound as error:
                first = error.problems[0]
                # An image that is refused anyway needs no second complaint from each of its resources.
                refused = any(problem.path == f"assemblies.{assembly.name}.image" for problem in self.found)
                missing = not assembly.image and self.images_required
                if first.code != "UNKNOWN_DISTRIBUTION" or not (refused or missing):
                    self.add(first.code, first.message, f"{path}.template", first.hint)
                return
        elif resource.template and resource.template not in self.catalogue.templates:
            message = f"there is no resource template {quote(resource.template)}"
            hint = self.near(resource.template, self.catalogue.templates)
            self.add("UNKNOWN_TEMPLATE", message, f"{path}.template", hint)
        if not resource.resource_class or not resource.type:
            self.add("MISSING_KEY", "a resource needs a 'template', or a 'class' and a 'type'", path)
        elif resource.resource_class not in names.RESOURCE_CLASSES:
            message = f"there is no class {quote(resource.resource_class)} of resource agents"
            hint = self.near(resource.resource_class, names.RESOURCE_CLASSES)
            self.add("UNKNOWN_WORD", message, f"{path}.class", hint)
        elif resource.resource_class == "ocf" and not resource.provider:
            message = "a resource of class 'ocf' needs a 'provider', such as heartbeat"
            self.add("MISSING_KEY", message, path)
        elif resource.resource_class != "ocf" and resource.provider:
            message = f"class '{resource.resource_class}' has no providers, only 'ocf' has"
            self.add("CONFLICTING_KEYS", message, f"{path}.provider")

    def constraints(self) -> None:
        known = {f"{a.name}.{r.name}" for a in self.deployable.assemblies for r in a.resources}
        self.unique("constraint", (constraint.id for constraint in self.deployable.constraints), "constraints")
        for index, constraint in enumerate(self.deployable.constraints):
            for key, member in (("first", constraint.first), ("then", constraint.then)):
                if member not in known:
                    message = f"there is no resource {quote(member)}"
                    self.add("UNKNOWN_RESOURCE", message, f"constraints.{index}.{key}", self.near(member, known))
            if constraint.first == constraint.then:
                message = f"the resource {quote(constraint.first)} can not come after itself"
                self.add("SELF_REFERENCE", message, f"constraints.{index}.then")

    def cycles(self) -> None:
        """Cycles of one kind are told where they are; those of several kinds together only where there are no others."""
        found = False
        order = {
            name: [one for one in before if one != name] for name, before in assembly_order(self.deployable).items()
        }
        for cycle in find_cycles(order):
            found = True
            self.add_cycle("assemblies", cycle, f"assemblies.{cycle[0]}.after")
        for assembly in self.deployable.assemblies:
            inside = {resource.name for resource in assembly.resources}
            after = {r.name: [one for one in r.after if one in inside and one != r.name] for r in assembly.resources}
            for cycle in find_cycles(after):
                found = True
                path = f"assemblies.{assembly.name}.resources.{cycle[0]}.after"
                self.add_cycle(f"the resources of {quote(assembly.name)}", cycle, path)
        if found:
            return
        for cycle in find_cycles(start_order(self.deployable)):
            inside = set(cycle)
            index = next(
                (i for i, c in enumerate(self.deployable.constraints) if c.first in inside and c.then in inside), None
            )
            self.add_cycle("constraints", cycle, "constraints" if index is None else f"constraints.{index}")

    def add_cycle(self, what: str, cycle: list[str], path: str) -> None:
        shown = [*cycle[:10], *(["…"] if len(cycle) > 10 else []), cycle[0]]
        message = f"the order of {what} goes in a circle: {' → '.join(shown)}"
        self.add("DEPENDENCY_CYCLE", message, path, "take one of these dependencies away")


def validate(
    deployable: Deployable, *, catalogue: Catalogue | None = None, images_required: bool = True
) -> list[Problem]:
    """Return everything that does not hold in a deployable; empty when all is well.

    Paths are those of the manifest; a reader adds lines from its map of positions. `images_required` is false for documents
    of other software, which say elsewhere what a guest is made from.
    """
    return _Validation(deployable, catalogue or default_catalogue(), images_required).run()
