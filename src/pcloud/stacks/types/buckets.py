"""AWS::S3::Bucket and BucketPolicy, on the object store that the daemon is told of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.objects.s3 import Buckets
from pcloud.stacks.platform import Platform
from pcloud.stacks.schema import OnChange, Property, PropertyProblem, Schema, anything, listing, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, known
from pcloud.stacks.types.stored import claim

_LONGEST = 63
_ACLS = {
    "Private": "private",
    "PublicRead": "public-read",
    "PublicReadWrite": "public-read-write",
    "AuthenticatedRead": "authenticated-read",
    "LogDeliveryWrite": "log-delivery-write",
    "BucketOwnerRead": "bucket-owner-read",
    "BucketOwnerFullControl": "bucket-owner-full-control",
    "AwsExecRead": "aws-exec-read",
}
_NAME = re.compile(r"(?!.*\.\.)(?!\d+\.\d+\.\d+\.\d+\Z)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_NOT_OFFERED = "of a bucket its name, access control list, website and tags are offered"
_UPDATE = OnChange.UPDATE


def refusals(kind: ResourceType, why_not: str) -> list[PropertyProblem]:
    """Return the refusal of a type whose store is not there."""
    return [PropertyProblem(code="REFUSED", message=f"{kind.names[0]} is refused: {why_not}", path=())]


def buckets_of(context: Context) -> Buckets:
    """Return the store's buckets; ResourceFailed when the operator took the store away."""
    objects = context.services.platform.objects
    if objects.buckets is None:
        raise ResourceFailed(objects.no_buckets)
    return objects.buckets


def _refused() -> Property:
    return anything(refused=_NOT_OFFERED)


class Bucket(ResourceType):
    """A bucket."""

    names = ("AWS::S3::Bucket",)
    attributes = frozenset({"Arn", "DomainName", "DualStackDomainName", "RegionalDomainName", "WebsiteURL"})
    schema: ClassVar[Schema] = {
        "BucketName": text(),
        "AccessControl": text(on_change=_UPDATE, allowed=tuple(_ACLS)),
        "Tags": listing(on_change=_UPDATE, fields={"Key": text(required=True), "Value": text(required=True)}),
        "WebsiteConfiguration": mapping(
            on_change=_UPDATE,
            fields={
                "IndexDocument": text(),
                "ErrorDocument": text(),
                "RedirectAllRequestsTo": mapping(
                    fields={"HostName": text(required=True), "Protocol": text(allowed=("http", "https"))}
                ),
                "RoutingRules": listing(
                    fields={
                        "RedirectRule": mapping(
                            required=True,
                            fields={
                                "HostName": text(),
                                "HttpRedirectCode": text(),
                                "Protocol": text(allowed=("http", "https")),
                                "ReplaceKeyPrefixWith": text(),
                                "ReplaceKeyWith": text(),
                            },
                        ),
                        "RoutingRuleCondition": mapping(
                            fields={"HttpErrorCodeReturnedEquals": text(), "KeyPrefixEquals": text()}
                        ),
                    }
                ),
            },
        ),
        **dict.fromkeys(
            (
                "AccelerateConfiguration",
                "AnalyticsConfigurations",
                "BucketEncryption",
                "CorsConfiguration",
                "IntelligentTieringConfigurations",
                "InventoryConfigurations",
                "LifecycleConfiguration",
                "LoggingConfiguration",
                "MetricsConfigurations",
                "NotificationConfiguration",
                "ObjectLockConfiguration",
                "ObjectLockEnabled",
                "OwnershipControls",
                "PublicAccessBlockConfiguration",
                "ReplicationConfiguration",
                "VersioningConfiguration",
            ),
            _refused(),
        ),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """A name that S3 allows."""
        name = properties.get("BucketName")
        if not known(name) or _NAME.match(str(name)):
            return []
        sentence = f"'{name}' is no name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens"
        return [PropertyProblem(code="BAD_PROPERTY", message=sentence, path=("BucketName",))]

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """A store must be there."""
        return refusals(self, platform.objects.no_buckets) if platform.objects.buckets is None else []

    async def create(self, context: Context) -> None:
        """Make it, and then what it is told to be."""
        buckets, given = buckets_of(context), context.properties
        name = await claim(context, given.get("BucketName"), _LONGEST, buckets.exists)
        await buckets.create(name)
        await self._set(context, frozenset(given))
        context.record.attributes = {
            "Arn": f"arn:aws:s3:::{name}",
            "WebsiteURL": buckets.website(name),
            **dict.fromkeys(("DomainName", "DualStackDomainName", "RegionalDomainName"), buckets.domain(name)),
        }

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Set what changed, and what an update that failed may have; what is not given becomes as in a new bucket."""
        await self._set(context, changed | frozenset(context.record.data.get("set", ())))

    async def _set(self, context: Context, changed: frozenset[str]) -> None:
        buckets, name, given = buckets_of(context), context.record.physical, context.properties
        context.record.data["set"] = sorted(changed & {"AccessControl", "WebsiteConfiguration", "Tags"})
        await context.services.keep(context.record)
        if "AccessControl" in changed:
            await buckets.set_acl(name, _ACLS[given.get("AccessControl") or "Private"])
        if "WebsiteConfiguration" in changed:
            website = given.get("WebsiteConfiguration")
            await buckets.set_website(name, None if website is None else _website(website))
        if "Tags" in changed:
            await buckets.set_tags(name, given.get("Tags") or [])

    async def delete(self, context: Context) -> None:
        """Remove it if it is empty; ResourceFailed otherwise."""
        if context.record.physical:
            await buckets_of(context).delete(context.record.physical)

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """Tell whether it is gone."""
        return {} if await buckets_of(context).exists(context.record.physical) else None


class BucketPolicy(ResourceType):
    """Who may do what with a bucket, as far as the store knows policies."""

    names = ("AWS::S3::BucketPolicy",)
    schema: ClassVar[Schema] = {
        "Bucket": text(required=True),
        "PolicyDocument": anything(required=True, on_change=_UPDATE),
    }

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """A store must be there."""
        return refusals(self, platform.objects.no_buckets) if platform.objects.buckets is None else []

    async def create(self, context: Context) -> None:
        """Set it."""
        record = context.record
        record.physical = context.physical_name()
        bucket = record.data["bucket"] = context.properties["Bucket"]
        record.data["reference"] = _reference(bucket)
        await context.services.keep(record)
        await self.update(context, {}, frozenset())

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Set it anew."""
        policy = context.properties["PolicyDocument"]
        document = policy if isinstance(policy, str) else json.dumps(policy)
        await buckets_of(context).set_policy(context.record.data["bucket"], document)

    async def delete(self, context: Context) -> None:
        """Remove it, unless a later one of its bucket took its place."""
        data = context.record.data
        if "bucket" not in data:
            return
        data.pop("reference", None)  # so that only another resource can be found
        if context.services.find(_reference(data["bucket"])) is None:
            await buckets_of(context).set_policy(data["bucket"], None)


def _reference(bucket: str) -> str:
    return f"s3-bucket-policy/{bucket}"


def _website(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return S3's words for CloudFormation's."""
    result: dict[str, Any] = {}
    if "RedirectAllRequestsTo" in given:
        result["RedirectAllRequestsTo"] = given["RedirectAllRequestsTo"]
    if "IndexDocument" in given:
        result["IndexDocument"] = {"Suffix": given["IndexDocument"]}
    if "ErrorDocument" in given:
        result["ErrorDocument"] = {"Key": given["ErrorDocument"]}
    if "RoutingRules" in given:
        result["RoutingRules"] = [
            {"Redirect": rule["RedirectRule"]}
            | ({"Condition": rule["RoutingRuleCondition"]} if "RoutingRuleCondition" in rule else {})
            for rule in given["RoutingRules"]
        ]
    return result


TYPES: tuple[type[ResourceType], ...] = (Bucket, BucketPolicy)
