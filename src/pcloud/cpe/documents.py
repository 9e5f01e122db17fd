"""The `Documents` port over the model's readers and writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from pcloud.cpe.ports import TemplateInfo
from pcloud.environment.infrastructure import Capability
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.model.change import changes
from pcloud.model.deployable import Assembly, Deployable, Resource
from pcloud.model.errors import InvalidDocument, PcloudError, Problem
from pcloud.model.manifest import checked, read_json, read_manifest, write_json, write_manifest
from pcloud.model.templates import Catalogue, Template, load_catalogue
from pcloud.model.xml import read_xml, write_xml


class ModelDocuments:
    """Reads with the templates of this installation, and those of `folder` beside them."""

    def __init__(self, folder: Path | None = None) -> None:
        self._catalogue: Catalogue = load_catalogue(folder)

    def know_images(self, images: Mapping[str, str]) -> None:
        """Take note of the images made by others: name → the distribution in it, or nothing."""
        self._catalogue = self._catalogue.with_images(images)

    def is_distribution(self, name: str) -> bool:
        """Tell whether a name or alias is a distribution's, imported images left aside."""
        return name in self._catalogue.distributions and name not in self._catalogue.imported

    def read(self, body: bytes, form: str, file: str) -> Deployable:
        """Read `yaml`, `xml` or `json`; InvalidDocument with every problem."""
        if form == "xml":
            return _capable(read_xml(body, file=file, catalogue=self._catalogue), file)
        read = read_json if form == "json" else read_manifest
        return _capable(read(body, file=file, catalogue=self._catalogue), file)

    def write(self, deployable: Deployable, form: str, *, redacted: bool) -> str:
        """Write `yaml`, `xml` or `json`; `redacted` hides secrets."""
        if form == "xml":
            return write_xml(deployable, redacted=redacted, catalogue=self._catalogue).decode()
        write = write_json if form == "json" else write_manifest
        return write(deployable, redacted=redacted, catalogue=self._catalogue)

    def check(self, deployable: Deployable) -> Deployable:
        """Return a deployable made by hand once it passed what documents must pass."""
        return _capable(checked(deployable, catalogue=self._catalogue), "")

    def changes(self, old: Deployable, new: Deployable) -> Sequence[str]:
        """Return the paths of what differs."""
        return changes(old, new)

    def resource(self, assembly: Assembly, name: str, template: str) -> Resource:
        """Make a resource from a template for an assembly; InvalidDocument or NotFound."""
        document = {
            "deployable": "library",
            "assemblies": {"library": {"image": assembly.image, "resources": {name: {"template": template}}}},
        }
        with _named(("assemblies.library.", "")):
            found = read_json(msgspec.json.encode(document), catalogue=self._catalogue)
        return found.assemblies[0].resources[0]

    def assembly(self, name: str, image: str, arch: str) -> Assembly:
        """Make an assembly without resources; InvalidDocument."""
        document = {"deployable": "library", "assemblies": {name: {"image": image, "arch": arch}}}
        with _named(("assemblies.", "")):
            return read_json(msgspec.json.encode(document), catalogue=self._catalogue).assemblies[0]

    def templates(self) -> Sequence[TemplateInfo]:
        """Return the resource templates, by name."""
        found: dict[str, Template] = {one.name: one for one in self._catalogue.templates.values()}
        return [
            TemplateInfo(name=name, description=found[name].description, aliases=found[name].aliases)
            for name in sorted(found)
        ]


def _capable(deployable: Deployable, file: str) -> Deployable:
    """Return the deployable; InvalidDocument when it asks for what its infrastructure can not do."""
    if Capability.SAVED_STATE in CAPABILITIES.get(deployable.infrastructure, ()):
        return deployable
    able = ", ".join(sorted(name for name, found in CAPABILITIES.items() if Capability.SAVED_STATE in found))
    problems = [
        Problem(
            code="CAPABILITY_MISSING",
            message=f"guests of {deployable.infrastructure} can not be started from a saved state",
            file=file,
            path=f"assemblies.{assembly.name}.saved_state",
            hint=f"leave it out, or use one of: {able}",
        )
        for assembly in deployable.assemblies
        if assembly.saved_state
    ]
    if problems:
        raise InvalidDocument(*problems)
    return deployable


class _named:  # noqa: N801 - reads as a clause
    """Takes the positions of a document that the user never saw out of errors."""

    def __init__(self, *replaced: tuple[str, str]) -> None:
        self._replaced = replaced

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PcloudError):
            raise type(error)(*[self._strip(problem) for problem in error.problems]) from error

    def _strip(self, problem: Problem) -> Problem:
        path = problem.path
        for prefix, new in self._replaced:
            path = new + path[len(prefix) :] if path.startswith(prefix) else path
        return msgspec.structs.replace(problem, path=path, line=0, column=0)
