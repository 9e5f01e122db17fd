"""What `doctor` says of the object store."""

from __future__ import annotations

import msgspec

from pcloud.objects.errors import ObjectStoreError
from pcloud.objects.store import ObjectStore

_WRITE = "set it in [object_store] of pcloud.toml, see docs/stacks-objects.md"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `doctor`."""

    check: str
    state: str
    detail: str = ""
    hint: str = ""


async def checks(store: ObjectStore) -> list[Check]:
    """Ask the store, where there is one, whether it would serve us. Slow: the store is waited for."""
    if not store.configured:
        detail = "none is configured: templates with buckets or containers are refused"
        return [Check(check="object store", state="ok", detail=detail, hint=f"to have one, {_WRITE}")]
    found = []
    for name, why_not, look in (
        ("S3", store.no_buckets, _buckets if store.buckets else None),
        ("Swift", store.no_containers, _containers if store.containers else None),
    ):
        check = f"object store: {name}"
        if look is None:
            state = "missing" if "missing" in why_not else "ok"
            found.append(Check(check=check, state=state, detail=why_not, hint=_WRITE))
            continue
        try:
            found.append(Check(check=check, state="ok", detail=await look(store)))
        except ObjectStoreError as problem:
            found.append(Check(check=check, state="missing", detail=problem.problems[0].message, hint=_WRITE))
    return found


async def _buckets(store: ObjectStore) -> str:
    assert store.buckets is not None
    return f"{store.buckets.settings.url}: {await store.buckets.count()} buckets"


async def _containers(store: ObjectStore) -> str:
    assert store.containers is not None
    return await store.containers.root()
