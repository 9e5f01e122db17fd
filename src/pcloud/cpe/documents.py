"""The `Documents` port over the model's readers and writers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from pcloud.cpe.ports import TemplateInfo
from pcloud.model.deployable import Assembly, Deployable, Resource
from pcloud.model.errors import PcloudError, Problem, Unavailable
from pcloud.model.manifest import checked, read_json, read_manifest, write_json, write_manifest
from pcloud.model.templates import Catalogue, Template, load_catalogue


class ModelDocuments:
    """Reads with the templates of this installation, and those of `folder` beside them."""

    def __init__(self, folder: Path | None = None) -> None:
        self._catalogue: Catalogue = load_catalogue(folder)

    def read(self, body: bytes, form: str, file: str) -> Deployable:
        """Read `yaml`, `xml` or `json`; InvalidDocument with every problem."""
        if form == "xml":
            deployable: Deployable = import_module("pcloud.model.xml").read_xml(
                body, file=file, catalogue=self._catalogue
            )
            return deployable
        read = read_json if form == "json" else read_manifest
        return read(body, file=file, catalogue=self._catalogue)

    def write(self, deployable: Deployable, form: str, *, redacted: bool) -> str:
        """Write `yaml`, `xml` or `json`; `redacted` hides secrets."""
        if form == "xml":
            return str(_xml().write_xml(deployable, redacted=redacted, catalogue=self._catalogue))
        write = write_json if form == "json" else write_manifest
        return write(deployable, redacted=redacted, catalogue=self._catalogue)

    def check(self, deployable: Deployable) -> Deployable:
        """Return a deployable made by hand once it passed what documents must pass."""
        return checked(deployable, catalogue=self._catalogue)

    def changes(self, old: Deployable, new: Deployable) -> Sequence[str]:
        """Return the paths of what differs."""
        return [
            path.replace("deployable.", "", 1) for path in sorted(differences(_plain(old), _plain(new), "deployable"))
        ]

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


def _xml() -> Any:
    try:
        return import_module("pcloud.model.xml")
    except ModuleNotFoundError as error:
        raise Unavailable(Problem(code="NO_XML", message="this version reads and writes YAML and JSON only")) from error


def _plain(deployable: Deployable) -> Any:
    """Return plain values in which lists of named things are tables by name, so that paths name them."""
    return _by_name(msgspec.to_builtins(deployable))


def _by_name(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _by_name(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        for key in ("name", "id", "assembly", "path"):
            names = [one.get(key) for one in value if isinstance(one, dict)]
            if value and len(names) == len(value) == len(set(names)):
                return {str(one[key]): _by_name(one) for one in value}
        return [_by_name(one) for one in value]
    return value


def differences(old: Any, new: Any, path: str) -> list[str]:
    """Return the paths at which two plain values differ; what only one of them has counts as a whole."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in old.keys() | new.keys():
            inner = f"{path}.{key}"
            if key in old and key in new:
                found += differences(old[key], new[key], inner)
            else:
                found.append(inner)
        return found
    return [path]


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
