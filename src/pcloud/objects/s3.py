"""Buckets by S3, signed and spoken by botocore.

Every method may be called again and then changes nothing: what is there already, or gone already, is no error.
Concurrency: any task of one loop; botocore blocks, so calls run in a few threads of their own, which a store that hangs
fills without standing in anybody else's way. A cancelled call may still reach the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from pcloud.objects.errors import ObjectStoreError
from pcloud.objects.settings import ObjectStoreSettings
from pcloud.objects.urls import ObjectName

_THREADS = 4
_GONE = frozenset({"NoSuchBucket", "404", "NotFound"})
_NOTHING = frozenset({"NoSuchTagSet", "NoSuchWebsiteConfiguration", "NoSuchBucketPolicy", "NotImplemented"})
"""Answers to the wish to remove what a bucket does not have, or what the store does not even know."""


class Buckets:
    """The buckets of one access key."""

    def __init__(self, settings: ObjectStoreSettings, secret: str) -> None:
        self.settings = settings
        self._secret = secret
        self._client: Any = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")

    def domain(self, name: str) -> str:
        """Return the host that a bucket is reached at."""
        host = urlsplit(self.settings.url).netloc
        return f"{name}.{host}" if self.settings.addressing == "virtual" else host

    def website(self, name: str) -> str:
        """Return the URL of a bucket's website."""
        if self.settings.website_url:
            return self.settings.website_url.replace("{bucket}", name)
        parts = urlsplit(self.settings.url)
        if self.settings.addressing == "virtual":
            return f"{parts.scheme}://{name}.{parts.netloc}{parts.path.rstrip('/')}"
        return f"{self.settings.url.rstrip('/')}/{name}"

    async def exists(self, name: str) -> bool:
        """Return whether anybody has a bucket of that name."""
        return await self._call("head_bucket", fine={"403": True, "301": True}, gone=False, Bucket=name) is not False

    async def create(self, name: str) -> None:
        """Make a bucket."""
        more: dict[str, Any] = {}
        if self.settings.region != "us-east-1":  # the one region that must not be named
            more["CreateBucketConfiguration"] = {"LocationConstraint": self.settings.region}
        await self._call("create_bucket", fine={"BucketAlreadyOwnedByYou": None}, Bucket=name, **more)

    async def delete(self, name: str) -> None:
        """Remove a bucket; ObjectStoreError `BucketNotEmpty` while something is in it."""
        await self._call("delete_bucket", gone=None, Bucket=name)

    async def set_acl(self, name: str, acl: str) -> None:
        """Set one of S3's canned lists, such as `public-read`."""
        await self._call("put_bucket_acl", Bucket=name, ACL=acl)

    async def set_tags(self, name: str, tags: list[dict[str, str]]) -> None:
        """Set a bucket's tags (`Key`, `Value`) to these and no others."""
        if tags:
            await self._call("put_bucket_tagging", Bucket=name, Tagging={"TagSet": tags})
        else:
            await self._remove("delete_bucket_tagging", name)

    async def set_website(self, name: str, website: Mapping[str, Any] | None) -> None:
        """Serve a bucket as a website, in the words of S3's API; None ends that."""
        if website is not None:
            await self._call("put_bucket_website", Bucket=name, WebsiteConfiguration=website)
        else:
            await self._remove("delete_bucket_website", name)

    async def set_policy(self, name: str, policy: str | None) -> None:
        """Set a bucket's policy (JSON); None removes it."""
        if policy is not None:
            await self._call("put_bucket_policy", Bucket=name, Policy=policy)
        else:
            await self._remove("delete_bucket_policy", name)

    async def read(self, name: ObjectName, limit: int) -> bytes:
        """Return the first bytes of an object, `limit` of them at most."""
        version: dict[str, Any] = {"VersionId": name.version} if name.version else {}
        content: bytes = await self._call("get_object", Bucket=name.bucket, Key=name.key, limit=limit, **version)
        return content

    async def count(self) -> int:
        """Return how many buckets there are."""
        return len((await self._call("list_buckets")).get("Buckets", ()))

    def close(self) -> None:
        """Take no more calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _remove(self, operation: str, name: str) -> None:
        await self._call(operation, fine=dict.fromkeys(_NOTHING), gone=None, Bucket=name)

    async def _call(
        self, operation: str, *, fine: Mapping[str, Any] | None = None, gone: Any = ..., limit: int = 0, **given: Any
    ) -> Any:
        """Call the store; codes in `fine` are no errors but stand for a result, `gone` for that of an absent bucket. With a
        `limit` the answer is so many bytes of its body."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._blocking, operation, given, limit)
        except ObjectStoreError as problem:
            if fine is not None and problem.code in fine:
                return fine[problem.code]
            if gone is not ... and problem.code in _GONE:
                return gone
            raise

    def _blocking(self, operation: str, given: dict[str, Any], limit: int) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._client is None:
                self._client = self._connect()
            answer = getattr(self._client, operation)(**given)
            if not limit:
                return answer
            with contextlib.closing(answer["Body"]) as body:
                return body.read(limit)
        except ClientError as error:
            said = error.response.get("Error", {})
            code, message = str(said.get("Code", "")), str(said.get("Message", ""))
            raise ObjectStoreError.of(code or "REFUSED", self._sentence(operation, f"{message} ({code})")) from None
        except BotoCoreError as error:
            raise ObjectStoreError.of("NO_ANSWER", self._sentence(operation, str(error))) from None
        except OSError as error:  # a certificate file that is not there
            raise ObjectStoreError.of("NO_ANSWER", self._sentence(operation, str(error))) from None

    def _sentence(self, operation: str, said: str) -> str:
        words = operation.replace("_", " ")
        return f"the object store, asked to {words}, says: {said.replace(self._secret, '***')[:300]}"

    def _connect(self) -> Any:
        from botocore.config import Config
        from botocore.session import Session

        settings = self.settings
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": settings.addressing},
            connect_timeout=min(settings.timeout, 10.0),
            read_timeout=settings.timeout,
            retries={"mode": "standard", "max_attempts": 3},
            max_pool_connections=_THREADS,
            # checksums of a kind that only newer stores know
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = Session()
        # Neither profiles nor instance metadata: only what the daemon's own settings say.
        session.set_config_variable("credentials_file", "/dev/null")
        session.set_config_variable("config_file", "/dev/null")
        return session.create_client(
            "s3",
            region_name=settings.region,
            endpoint_url=settings.url,
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=self._secret,
            verify=settings.ca_file or None,
            config=config,
        )
