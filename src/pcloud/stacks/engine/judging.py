"""Judges what a client brings, with everything that is nested in it, before anything starts.

A nested template is judged with the parameters that it will get, as far as they are known. Addresses that its resources ask
for and what its siblings will export are judged when it is made. A file that is used many times with different parameters is
judged for the first of them: what is wrong with its types and parameters' names is wrong with all of them.

Concurrency: pure but for the template reader's cache; one object a request.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pcloud.model.errors import InvalidDocument, Problem
from pcloud.stacks.assessment import assess
from pcloud.stacks.beneath import Foreseen
from pcloud.stacks.documents import Path, dotted
from pcloud.stacks.engine import custom_constraints
from pcloud.stacks.engine.scopes import Reader
from pcloud.stacks.functions.evaluation import Scope
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord, Source, StackRecord
from pcloud.stacks.rules import judge_rules, judge_sections
from pcloud.stacks.template import ResourceDefinition
from pcloud.stacks.types.base import ResourceFailed, ResourceType, failed
from pcloud.stacks.types.nested import NestedType

MAX_NESTING = 10
"""How deep stacks may be nested, the outermost counted."""
MAX_ALIKE = 20
"""Nested stacks of one template that are judged beforehand, each with parameters of its own."""
MAX_JUDGED = 500
"""All nested stacks that are judged beforehand."""


class Judging:
    """One judgement of a source and what is nested in it."""

    def __init__(self, reader: Reader, platform: Platform, find: Callable[[str], ResourceRecord | None]) -> None:
        self._reader = reader
        self._find = find
        self._platform = platform
        self._known: dict[str, list[Problem]] = {}
        self._alike: collections.Counter[str] = collections.Counter()

    def judge(
        self,
        scope: Scope,
        stack: StackRecord,
        source: Source,
        depth: int,
        *,
        occupied: Callable[[str, str], str] | None = None,
    ) -> None:
        """InvalidDocument with everything that is wrong."""
        judge_sections(scope)
        judge_rules(scope)
        scope.problems += custom_constraints.problems(scope.template, scope.parameters, self._platform, self._find)

        def beneath(
            definition: ResourceDefinition, kind: ResourceType, properties: Mapping[str, Any], path: Path
        ) -> list[Problem]:
            assert isinstance(kind, NestedType)
            try:
                foreseen = kind.foresee(definition.type, properties, source.files, source.registry)
            except ResourceFailed as problem:
                return [scope.template.problem("MISSING_FILE", failed(problem), path)]
            if foreseen is None:
                return []
            if depth >= MAX_NESTING:
                return [scope.template.problem("TOO_DEEP", f"stacks are nested deeper than {MAX_NESTING}", path)]
            foreseen = foreseen.within(source)
            child = StackRecord(id=stack.id, name=f"{stack.name}-{definition.name}", status="REVIEW_IN_PROGRESS")
            return [moved(problem, path, foreseen) for problem in self._nested(child, foreseen, depth + 1)]

        assess(
            scope,
            registry=source.registry,
            capabilities=self._platform.capabilities,
            platform=self._platform,
            occupied=occupied,
            beneath=beneath,
            find=self._find,
        )

    def _nested(self, child: StackRecord, foreseen: Foreseen, depth: int) -> list[Problem]:
        source, unknown = foreseen.source, foreseen.unknown
        later = sorted(map(str, unknown)) if unknown is not None else None
        key = json.dumps([source.template, source.parameters, later, depth], default=str)
        if key in self._known:
            return self._known[key]
        if self._alike[source.template] >= MAX_ALIKE or self._alike.total() >= MAX_JUDGED:
            return []
        self._alike[source.template] += 1
        try:
            scope = self._reader.scope(child, source, every_branch=True, foreseen=foreseen)
            self.judge(scope, child, source, depth)
        except InvalidDocument as problem:
            found = list(problem.problems)
        else:
            found = []
        self._known[key] = found
        return found


def moved(problem: Problem, path: Path, foreseen: Foreseen) -> Problem:
    """Return a problem of a nested template as one of the template that names it."""
    inside = f"{dotted(path)}/{foreseen.label}/{problem.path}"
    if foreseen.label not in foreseen.source.files:  # there is no such text that a position could be of
        return msgspec.structs.replace(problem, path=inside, line=0, column=0)
    return msgspec.structs.replace(problem, path=inside, file=problem.file or foreseen.label)
