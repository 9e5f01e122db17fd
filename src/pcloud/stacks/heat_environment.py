"""Heat's environments: parameters, their defaults and the resource registry that are sent beside a template.

Owns what of an environment is understood, and the refusal of what is not: nothing in it is ignored. Pure.
Source: Heat's `heat/engine/environment.py` and the template guide, "Environments".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pcloud.model.errors import InvalidDocument, Problem
from pcloud.stacks.documents import read_document

_SECTIONS = frozenset({"parameters", "parameter_defaults", "resource_registry"})
_REFUSED = {
    "event_sinks": "there is no message queue; `pcloud stack events` and the daemon's sinks tell events",
    "encrypted_param_names": "parameters of another Heat's store can not be decrypted here",
}
_ONE_TYPE = "a type is replaced for the whole stack only: name it in the registry itself"
_REFUSED_OF_RESOURCES = {
    "hooks": "no breakpoints are kept; use a change set or `pcloud stack plan` to see what will happen",
    "restricted_actions": "write a stack policy, which denies actions on resources",
}


class HeatEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """What one or several environments say together."""

    parameters: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    registry: dict[str, Any] = {}


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Return a map that was sent as one, or as text of YAML or JSON; InvalidDocument for anything else."""
    if isinstance(value, str):
        value = read_document(value).data if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refused(f"{what} must be a map")
    return value


def read_environments(documents: Sequence[Any]) -> HeatEnvironment:
    """Return what environments say together, later ones over earlier ones; InvalidDocument names what is not understood."""
    merged: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for document in documents:
        read = mapping(document, "an environment")
        _check_strategies(read.get("parameter_merge_strategies"))
        for section, value in read.items():
            if section in _SECTIONS:
                merged[section].update(mapping(value, section))
            elif section in _REFUSED and value:
                raise _refused(f"{section} in an environment is refused: {_REFUSED[section]}")
            elif section not in _REFUSED and section != "parameter_merge_strategies":
                raise _refused(f"'{section}' is no part of an environment; known are: {', '.join(sorted(_SECTIONS))}")
    registry = merged["resource_registry"]
    _check_resources(mapping(registry.pop("resources", None), "resources of the resource_registry"))
    registry.pop("base_url", None)  # the client has put its files' names in already
    return HeatEnvironment(parameters=merged["parameters"], defaults=merged["parameter_defaults"], registry=registry)


def _check_strategies(strategies: Any) -> None:
    for name, strategy in mapping(strategies, "parameter_merge_strategies").items():
        if strategy != "overwrite":
            raise _refused(
                f"parameter_merge_strategies: {name} says '{strategy}'; environments overwrite each other here"
            )


def _check_resources(resources: Mapping[str, Any]) -> None:
    for name, given in resources.items():
        for key in mapping(given, f"{name} in resources of the resource_registry"):
            why = _REFUSED_OF_RESOURCES.get(key, _ONE_TYPE)
            raise _refused(f"{key} of the resource {name} in an environment is refused: {why}")


def _refused(message: str) -> InvalidDocument:
    return InvalidDocument(Problem(code="BAD_ENVIRONMENT", message=message))
