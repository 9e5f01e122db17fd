"""Templates and policies that a request names by URL: read from the configured object store, and from nowhere else.

Owns the bounds: of one text, and of all templates that one request brings along. Concurrency: waits for the store, so
whatever a caller looked at before may have changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from pcloud.api.aws.query import QueryError
from pcloud.model.errors import PcloudError
from pcloud.objects.errors import ObjectStoreError
from pcloud.objects.urls import object_of
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.functions.evaluation import FunctionError
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.template import Dialect

MAX_TEMPLATE = 1024 * 1024
"""Bytes of a template in the store; as CloudFormation has it."""
MAX_NESTED = 100
MAX_TOGETHER = 16 * 1024 * 1024
"""Bytes of all nested templates of a request; as much as a request itself may bring."""
_REFUSALS = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "AccessDenied", "InvalidBucketName", "403", "404"})


def in_store(manager: StackManager, url: str) -> bool:
    """Whether a URL is one of the configured object store."""
    buckets = manager.platform.objects.buckets
    return buckets is not None and object_of(buckets.settings, url) is not None


async def text_at(manager: StackManager, what: str, url: str, limit: int = MAX_TEMPLATE) -> str:
    """Return the text at a URL of the object store; QueryError that begins with `what` when there is none to have."""
    store = manager.platform.objects
    if store.buckets is None:
        raise QueryError("ValidationError", f"{what}: nothing is fetched from the network, and {store.no_buckets}")
    name = object_of(store.buckets.settings, url)
    if name is None:
        endpoint = store.buckets.settings.url
        raise QueryError("ValidationError", f"{what}: only the configured object store is read, {endpoint} or s3://")
    try:
        content = await store.buckets.read(name, limit + 1)
    except ObjectStoreError as problem:
        if problem.code not in _REFUSALS:
            raise
        raise QueryError("ValidationError", f"{what}: {problem.problems[0].message}") from None
    if len(content) > limit:
        raise QueryError("ValidationError", f"{what}: the object is larger than {limit} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise QueryError("ValidationError", f"{what}: the object is no text") from None


async def nested_templates(manager: StackManager, source: Source) -> dict[str, str]:
    """Return the texts of the templates in the store that a source's nested stacks name, those within them too, by URL."""
    found: dict[str, str] = {}
    waiting = [source]
    while waiting:
        for name, url in _urls(manager, waiting.pop()):
            if url in found or not in_store(manager, url):
                continue
            if len(found) >= MAX_NESTED:
                raise QueryError("ValidationError", f"more than {MAX_NESTED} nested templates")
            found[url] = await text_at(manager, f"TemplateURL of the resource {name}", url)
            if sum(map(len, found.values())) > MAX_TOGETHER:
                raise QueryError(
                    "ValidationError", f"the nested templates are larger than {MAX_TOGETHER} bytes together"
                )
            waiting.append(Source(template=found[url], registry=source.registry))
    return found


def _urls(manager: StackManager, source: Source) -> Iterator[tuple[str, str]]:
    """Yield the URLs that a template's nested stacks name, as far as they are known before anything is made."""
    subject = StackRecord(id="00000000-0000-0000-0000-000000000000", name="nested", status="REVIEW_IN_PROGRESS")
    try:
        template = manager.reader.template(source)
        scope = manager.reader.scope(subject, source, complete=False)
    except PcloudError:
        return  # whoever judges the template says what is wrong with it
    for name, resource in template.resources.items():
        if resource.type != "AWS::CloudFormation::Stack" or template.dialect is not Dialect.CFN:
            continue
        url = resource.properties.get("TemplateURL") if isinstance(resource.properties, dict) else None
        if not isinstance(url, str):
            try:
                url = scope.evaluate(url, ("Resources", name, "Properties", "TemplateURL"))
            except FunctionError:
                continue
        if isinstance(url, str):
            yield name, url
