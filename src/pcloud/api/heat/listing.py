"""Which stacks `stack list` shows, in which order: Heat's filters, sort keys and pages. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.datastructures import QueryParams

from pcloud.api.heat.requests import HeatError
from pcloud.api.heat.views import heat_status
from pcloud.stacks.records import StackRecord

_KEYS: dict[str, Callable[[StackRecord], Any]] = {
    "stack_name": lambda stack: stack.name,
    "stack_status": lambda stack: heat_status(stack.status)[0],
    "creation_time": lambda stack: stack.created,
    "updated_time": lambda stack: stack.updated,
}


def _words(query: QueryParams, name: str) -> set[str]:
    return {word for given in query.getlist(name) for word in given.split(",") if word}


def _tags(stack: StackRecord) -> set[str]:
    source = stack.source or (stack.operation.target if stack.operation else None)
    return set(source.tags) if source is not None else set()


def chosen(stacks: list[StackRecord], query: QueryParams) -> list[StackRecord]:
    """Return those that a query's filters leave: by name, id, status, action and tags."""
    for name in ("name", "id"):
        if query.getlist(name):
            stacks = [stack for stack in stacks if getattr(stack, name) in query.getlist(name)]
    for names, part in ((("status", "stack_status"), (0, 2)), (("action",), (1,))):
        wanted = {word.upper() for name in names for word in _words(query, name)}
        if wanted:
            stacks = [stack for stack in stacks if wanted & {heat_status(stack.status)[index] for index in part}]
    every, some = _words(query, "tags"), _words(query, "tags_any")
    not_every, none = _words(query, "not_tags"), _words(query, "not_tags_any")
    if every or some or not_every or none:
        stacks = [
            stack
            for stack in stacks
            if every <= (tags := _tags(stack))
            and (not some or some & tags)
            and not (not_every and not_every <= tags)
            and not none & tags
        ]
    return stacks


def sorted_by(stacks: list[StackRecord], query: QueryParams) -> list[StackRecord]:
    """Return them as the query's sort_keys say, else the newest first; HeatError for a key that is none."""
    keys = [word for given in query.getlist("sort_keys") for word in given.split(",") if word]
    unknown = [key for key in keys if key not in _KEYS]
    direction = query.get("sort_dir", "asc" if keys else "desc")
    if unknown or direction not in ("asc", "desc"):
        raise HeatError(400, "HTTPBadRequest", f"sort_keys are {', '.join(_KEYS)}; sort_dir is asc or desc")
    keys = keys or ["creation_time"]
    return sorted(stacks, key=lambda stack: [_KEYS[key](stack) for key in keys], reverse=direction == "desc")


def page(stacks: list[StackRecord], query: QueryParams) -> list[StackRecord]:
    """Return those after the `marker`, `limit` of them at most; HeatError when there is no such stack or number."""
    marker, limit = query.get("marker"), query.get("limit", "")
    if marker:
        ids = [stack.id for stack in stacks]
        if marker not in ids:
            raise HeatError(404, "EntityNotFound", f"The Stack ({marker}) could not be found.")
        stacks = stacks[ids.index(marker) + 1 :]
    if limit and (not limit.isdecimal() or len(limit) > 9):
        raise HeatError(400, "HTTPBadRequest", "limit must be a whole number")
    return stacks[: int(limit)] if limit else stacks
