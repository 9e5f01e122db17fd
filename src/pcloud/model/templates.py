"""Resource templates and the distributions they know: how a service is called and packaged on each.

Both are data: YAML files beside this module, and those of an operator's folder, which win over ours of the same name.
A `Catalogue` is immutable; ours is read once per process and shared. Files are read here and nowhere else in this room.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from pcloud.model import names
from pcloud.model.deployable import Assembly
from pcloud.model.document import parse_yaml
from pcloud.model.errors import InvalidDocument, NotFound, PcloudError
from pcloud.model.kinds import INVALID, Choice, Duration, Text
from pcloud.model.names import did_you_mean
from pcloud.model.problems import Problems, quote
from pcloud.model.resource_description import MONITOR, RESOURCE_TIMEOUTS, configure, template_name
from pcloud.model.shapes import Either, Key, ListOf, MapOf, Table, is_mapping

ANY_FAMILY: Final = "any"
"""The family whose part applies where a template says nothing about an image's own, or the image is not known."""
_HERE = Path(__file__).parent


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution that guests are made from."""

    name: str
    """Also the name of its JEOS, such as `bookworm`."""
    family: str
    """`debian` or `redhat`: which part of a template applies."""
    id: str
    """As in /etc/os-release."""
    version: str
    description: str = ""
    aliases: tuple[str, ...] = ()


class ResolvedTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """What a template means on one distribution. The defaults are those of a resource without a template."""

    name: str = ""
    resource_class: str = ""
    provider: str = ""
    type: str = ""
    packages: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    monitor_interval: float = 10.0
    monitor_timeout: float = 20.0
    monitor_start_delay: float = 0.0
    start_timeout: float = 60.0
    stop_timeout: float = 60.0
    configure: tuple[str, ...] = ()


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A resource template; `resolve` is what others call."""

    name: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    common: ResolvedTemplate
    families: Mapping[str, Mapping[str, Any]]
    """Changes to `common` by family; the family `any` applies where no other does."""
    distributions: Mapping[str, Mapping[str, Any]] = {}
    """Changes to the family's by distribution."""
    known: Mapping[str, Distribution] = {}
    """Distributions by name and alias, of the catalogue this template belongs to."""

    def resolve(self, distribution: str) -> ResolvedTemplate:
        """Return what the template means on a distribution (name or alias); NotFound when it can not be said."""
        found = self.known.get(distribution)
        family = found.family if found else ANY_FAMILY
        changes = self.families.get(family)
        if changes is None:
            changes = self.families.get(ANY_FAMILY)
        if changes is None:
            if found is None:
                what = (
                    f"it is not known which distribution {quote(distribution)} is"
                    if distribution
                    else "no image is named"
                )
                raise NotFound.of(
                    "UNKNOWN_DISTRIBUTION",
                    f"{what}, so the template '{self.name}' can not be applied",
                    hint=did_you_mean(distribution, self.known) or "give the resource a class and a type instead",
                )
            if found is not None and not found.name:
                raise NotFound.of(
                    "UNKNOWN_DISTRIBUTION",
                    f"it is not known which distribution {quote(distribution)} is, so the template '{self.name}' can not "
                    "be applied",
                    hint="import the image again with --like, or give the resource a class and a type instead",
                )
            raise NotFound.of(
                "TEMPLATE_NOT_FOR_DISTRIBUTION",
                f"the template '{self.name}' says nothing about {found.description or found.name}",
                hint="give the resource a class and a type instead",
            )
        special = self.distributions.get(found.name, {}) if found else {}
        return msgspec.structs.replace(self.common, **{**changes, **special})


class Catalogue:
    """Templates and distributions that readers and writers look things up in. Immutable."""

    def __init__(
        self,
        templates: Mapping[str, Template],
        distributions: Mapping[str, Distribution],
        imported: frozenset[str] = frozenset(),
    ) -> None:
        self.templates = MappingProxyType(dict(templates))
        """By name and by alias."""
        self.distributions = MappingProxyType(dict(distributions))
        """By name and by alias."""
        self.imported = imported
        """Those names of `distributions` that are images made by others: they are used as they are."""
        self._resolved: dict[tuple[str, str], ResolvedTemplate | PcloudError] = {}

    def resolve(self, template: str, image: str) -> ResolvedTemplate:
        """Return what a template means in an image; NotFound when there is no such template or it can not be said."""
        known = self._resolved.get((template, image))
        if known is None:
            try:
                known = self._resolve(template, image)
            except PcloudError as error:
                known = error
            if len(self._resolved) < 10_000:
                self._resolved[template, image] = known
        if isinstance(known, PcloudError):
            raise NotFound(*known.problems)
        return known

    def _resolve(self, template: str, image: str) -> ResolvedTemplate:
        found = self.templates.get(template)
        if found is None:
            message = f"there is no resource template {quote(template)}"
            raise NotFound.of("UNKNOWN_TEMPLATE", message, hint=did_you_mean(template, self.templates))
        return found.resolve(image)

    def with_images(self, images: Mapping[str, str]) -> Catalogue:
        """Return a catalogue that knows these images made by others: name → the distribution in it, by name or alias; empty,
        or unknown here, where nobody said which."""
        mine = {name: found for name, found in self.distributions.items() if name not in self.imported}
        blank = Distribution(name="", family="", id="", version="")
        known = {**{name: mine.get(like, blank) for name, like in images.items()}, **mine}
        templates = {name: msgspec.structs.replace(one, known=known) for name, one in self.templates.items()}
        return Catalogue(templates, known, frozenset(images.keys() - mine.keys()))

    def packages_for(self, assembly: Assembly) -> tuple[str, ...]:
        """The packages of an assembly's image: its own, then those of its resources' templates, each once. Templates that
        mean nothing on the image's distribution (class and type were given by hand) bring none."""
        packages = dict.fromkeys(assembly.packages)
        for resource in assembly.resources:
            if resource.template:
                try:
                    packages |= dict.fromkeys(self.resolve(resource.template, assembly.image).packages)
                except NotFound:
                    continue
        return tuple(packages)


_PARTS = (
    Key("class", Choice(names.RESOURCE_CLASSES), "Kind of resource agent."),
    Key("provider", Text(names.AGENT_PROVIDER, what="provider"), "Provider of the agent, for class `ocf`."),
    Key("type", Text(names.AGENT_TYPE, what="type of resource agent"), "Name of the agent or unit."),
    Key("packages", ListOf(Text(names.PACKAGE, what="package's name")), "Packages that bring the service."),
    Key("processes", ListOf(Text(names.PROCESS, what="process name")), "Names of the service's processes."),
    Key("configure", configure, "Executable that configures the service."),
)
_VARIANT = Table("variant of a resource template", *_PARTS)
_TEMPLATE = Table(
    "resource template",
    Key("description", Text(what="description"), "One line for lists."),
    Key("aliases", ListOf(template_name), "Other names for the same template."),
    Key(
        "monitor",
        Either(
            "a duration, or a mapping with 'interval', 'timeout' and 'start_delay'",
            (is_mapping, MONITOR, lambda value: value),
            (lambda _: True, Duration(0.1, 604800.0), lambda value: {"interval": value}),
        ),
        "Default of the resources' `monitor`.",
    ),
    Key("timeouts", RESOURCE_TIMEOUTS, "Defaults of the resources' `timeouts`."),
    *_PARTS,
    Key(
        "families",
        MapOf(Text(names.WORD, what="family"), _VARIANT),
        "By family of distributions; `any` for all others.",
        required=True,
    ),
    Key("distributions", MapOf(Text(names.IMAGE_NAME, what="distribution"), _VARIANT), "Exceptions by distribution."),
)
_DISTRIBUTION = Table(
    "distribution",
    Key("description", Text(what="description"), "Its name for people."),
    Key("id", Text(names.WORD, what="id"), "As in /etc/os-release.", required=True),
    Key("version", Text(what="version"), "As in /etc/os-release.", required=True),
    Key("family", Text(names.WORD, what="family"), "Which part of a template applies.", required=True),
    Key("aliases", ListOf(Text(names.IMAGE_NAME, what="alias")), "Other names for the same JEOS."),
)
_DISTRIBUTIONS = MapOf(Text(names.IMAGE_NAME, what="distribution", code="INVALID_NAME"), _DISTRIBUTION)


def _read(path: Path, kind: Any) -> Any:
    problems = Problems(str(path))
    try:
        value = kind.read(parse_yaml(path.read_bytes(), problems), "", problems)
    except OSError as error:
        raise problems.stop("UNREADABLE_FILE", f"the file can not be read: {error.strerror}") from error
    problems.raise_if_any()
    assert value is not INVALID
    return value


def _changes(values: Mapping[str, Any]) -> dict[str, Any]:
    changes = {key: values[key] for key in ("provider", "type", "configure") if key in values}
    changes |= {key: tuple(values[key]) for key in ("packages", "processes") if key in values}
    if "class" in values:
        changes["resource_class"] = values["class"]
    monitor, timeouts = values.get("monitor", {}), values.get("timeouts", {})
    for key, source, name in (
        ("monitor_interval", monitor, "interval"),
        ("monitor_timeout", timeouts, "monitor"),
        ("monitor_timeout", monitor, "timeout"),
        ("monitor_start_delay", monitor, "start_delay"),
        ("start_timeout", timeouts, "start"),
        ("stop_timeout", timeouts, "stop"),
    ):
        if name in source:
            changes[key] = source[name]
    return changes


def load_distributions(extra_dir: Path | None = None) -> Mapping[str, Distribution]:
    """Read the distributions: ours, and `distributions.yaml` of the extra folder, by name and alias. InvalidDocument when a
    file is not as it should be."""
    found: dict[str, Distribution] = {}
    paths = [_HERE / "distributions.yaml"]
    if extra_dir is not None and (extra_dir / "distributions.yaml").is_file():
        paths.append(extra_dir / "distributions.yaml")
    for path in paths:
        for name, values in _read(path, _DISTRIBUTIONS).items():
            distribution = Distribution(name=name, **{**values, "aliases": tuple(values.get("aliases", ()))})
            found |= dict.fromkeys((name, *distribution.aliases), distribution)
    return found


def load_templates(
    extra_dir: Path | None = None, distributions: Mapping[str, Distribution] | None = None
) -> Mapping[str, Template]:
    """Read the resource templates: ours, and every `*.yaml` of `resource_templates` in the extra folder, by name and alias.
    A file's name is the template's. InvalidDocument when one is not as it should be."""
    known = load_distributions(extra_dir) if distributions is None else distributions
    found: dict[str, Template] = {}
    for folder in (_HERE, extra_dir):
        paths = sorted((folder / "resource_templates").glob("*.yaml")) if folder is not None else []
        for path in paths:
            values = _read(path, _TEMPLATE)
            if not names.matches(names.TEMPLATE_NAME, path.stem):
                problems = Problems(str(path))
                raise problems.stop("INVALID_NAME", f"{quote(path.stem)} is not a template's name")
            template = Template(
                name=path.stem,
                description=values.get("description", ""),
                aliases=tuple(values.get("aliases", ())),
                common=ResolvedTemplate(name=path.stem, **_changes(values)),
                families={name: _changes(part) for name, part in values["families"].items()},
                distributions={
                    known[name].name if name in known else name: _changes(part)
                    for name, part in values.get("distributions", {}).items()
                },
                known=known,
            )
            found |= dict.fromkeys((path.stem, *template.aliases), template)
    return found


def load_catalogue(extra_dir: Path | None = None) -> Catalogue:
    """Read templates and distributions, ours and those of a folder; InvalidDocument when one is not as it should be."""
    distributions = load_distributions(extra_dir)
    return Catalogue(load_templates(extra_dir, distributions), distributions)


@lru_cache(maxsize=1)
def default_catalogue() -> Catalogue:
    """Ours, read once per process."""
    try:
        return load_catalogue()
    except InvalidDocument as error:  # pragma: no cover - a broken installation
        raise RuntimeError(f"this installation is damaged: {error}") from error


def packages_for(assembly: Assembly, catalogue: Catalogue | None = None) -> tuple[str, ...]:
    """`Catalogue.packages_for` of the given catalogue, or of ours."""
    return (catalogue or default_catalogue()).packages_for(assembly)
