"""What a template's functions can learn of a live stack: pseudo parameters, exports, attributes of its resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pcloud.stacks.beneath import Foreseen
from pcloud.stacks.functions.evaluation import FunctionError, Scope, Unknown
from pcloud.stacks.parameters import parameter_values
from pcloud.stacks.plan import Change
from pcloud.stacks.reading import read_template
from pcloud.stacks.records import ResourceRecord, Source, StackRecord
from pcloud.stacks.template import Dialect, Template
from pcloud.stacks.types.base import Services
from pcloud.stacks.types.registry import find_type, type_made

ACCOUNT = "000000000000"


def arn(stack: StackRecord, region: str) -> str:
    """Return CloudFormation's id of a stack."""
    return f"arn:aws:cloudformation:{region}:{ACCOUNT}:stack/{stack.name}/{stack.id}"


def pseudo_parameters(stack: StackRecord, region: str, notifications: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values that every template may refer to."""
    identity = arn(stack, region)
    return {
        "AWS::AccountId": ACCOUNT,
        "AWS::NotificationARNs": list(notifications),
        "AWS::Partition": "aws",
        "AWS::Region": region,
        "AWS::StackId": identity,
        "AWS::StackName": stack.name,
        "AWS::URLSuffix": "amazonaws.com",
        "OS::stack_name": stack.name,
        "OS::stack_id": stack.id,
        "OS::project_id": "admin",
        "zones": ["nova"],
    }


def given_values(
    template: Template, source: Source, *, complete: bool = True, later: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return the parameters' values of a source, the environment's defaults included, without those given `later`."""
    defaults = {name: value for name, value in source.defaults.items() if name in template.parameters}
    return parameter_values(template, {**defaults, **source.parameters}, complete=complete, later=later)


class Reader:
    """Reads sources and makes scopes. Templates are read once while they stay the same."""

    def __init__(self, services: Services, exports: Callable[[], Mapping[str, str]]) -> None:
        self._services = services
        self._exports = exports
        self._cache: dict[int, tuple[Source, Template]] = {}

    def template(self, source: Source) -> Template:
        """Return the template of a source; InvalidDocument when it is none."""
        found = self._cache.get(id(source))
        if found is not None and found[0] is source:
            return found[1]
        template = read_template(source.template, given={**source.defaults, **source.parameters})
        if len(self._cache) >= 64:
            self._cache.clear()
        self._cache[id(source)] = (source, template)
        return template

    def masked(self, source: Source, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values by parameter, without those that the template hides or does not know: another may hide them."""
        known = self.template(source).parameters
        return {name: value if name in known and not known[name].hidden else "******" for name, value in values.items()}

    def scope(
        self,
        stack: StackRecord,
        source: Source,
        *,
        attribute: Callable[[str, str, list[Any]], Any] | None = None,
        reference: Callable[[str], Any] | None = None,
        facade: Callable[[str], Any] | None = None,
        complete: bool = True,
        every_branch: bool = False,
        foreseen: Foreseen | None = None,
    ) -> Scope:
        """Return a scope over a source, or over one that is `foreseen`: what others will export by then is not known."""
        template = self.template(source)
        later: frozenset[str] = frozenset()
        if foreseen is not None:
            complete, later = complete and foreseen.unknown is not None, foreseen.unknown or later

        def checked(name: str, attribute_name: str, path: list[Any]) -> Any:
            self.check_attribute(template, source, name, attribute_name)
            if attribute is None:
                return Unknown(f"{name}.{attribute_name}")
            return attribute(name, attribute_name, path)

        return Scope(
            template,
            given_values(template, source, complete=complete, later=later),
            pseudo=pseudo_parameters(stack, self._services.region, source.notifications),
            files=source.files,
            imports=None if foreseen is not None or (every_branch and not complete) else self._exports(),
            attribute=checked,
            reference=reference,
            facade=facade,
            every_branch=every_branch,
        )

    @staticmethod
    def check_attribute(template: Template, source: Source, name: str, attribute: str) -> None:
        """FunctionError when the type of a resource has no such attribute."""
        kind, _, _ = find_type(template.resources[name].type, source.registry, source.files)
        if kind is None:
            return
        if template.dialect is Dialect.HOT and attribute in ("show", "id"):
            return
        kind.known_attribute(attribute)

    def live_scope(
        self,
        stack: StackRecord,
        source: Source,
        records: Mapping[str, ResourceRecord],
        *,
        facade: Callable[[str], Any] | None = None,
        changes: Mapping[str, Change] | None = None,
        foreseen: Foreseen | None = None,
    ) -> Scope:
        """Return a scope that knows the resources that exist. With `changes` (a plan), what will change is unknown."""
        services = self._services

        def settled(name: str) -> ResourceRecord | None:
            record = records.get(name)
            if record is None or not record.physical:
                return None
            if (
                changes is not None
                and changes.get(name, None) is not None
                and changes[name].action in ("create", "replace")
            ):
                return None
            return record

        def attribute(name: str, attribute_name: str, path: list[Any]) -> Any:
            record = settled(name)
            if record is None or (changes is not None and name in changes and changes[name].action == "update"):
                if changes is None and name not in scope_enabled():
                    return None
                return Unknown(f"{name}.{attribute_name}")
            return services.resource_value(record, attribute_name, path)

        def reference(name: str) -> Any:
            record = settled(name)
            if record is None:
                if changes is None and name not in scope_enabled():
                    raise FunctionError(
                        f"the resource '{name}' is not made: its condition does not hold", "UNKNOWN_REFERENCE"
                    )
                return Unknown(name)
            kind, _ = type_made(record.type, record.made_as, source.registry, source.files)
            return kind.reference(record, services) if kind is not None else record.physical

        scope = self.scope(stack, source, attribute=attribute, reference=reference, facade=facade, foreseen=foreseen)

        def scope_enabled() -> frozenset[str]:
            return scope.enabled if scope.enabled is not None else frozenset(scope.template.resources)

        return scope
