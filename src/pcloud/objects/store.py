"""The object store of one daemon, as its settings describe it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from pcloud.objects.s3 import Buckets
from pcloud.objects.settings import S3_SECRET, SWIFT_KEY, NoSecret, ObjectStoreSettings, secret
from pcloud.objects.swift import Containers

UNCONFIGURED = "no object store is configured"


class ObjectStore:
    """Its buckets and its containers; each may be None, and then a sentence says why."""

    def __init__(
        self, settings: ObjectStoreSettings | None = None, environment: MutableMapping[str, str] | None = None
    ) -> None:
        """Read the secrets and connect to nothing. Blocking for two small files."""
        settings = settings or ObjectStoreSettings()
        environment = os.environ if environment is None else environment
        self.configured = bool(settings.url or settings.swift.auth_url or settings.swift.cloud)
        self.buckets: Buckets | None = None
        self.containers: Containers | None = None
        self.no_buckets = self.no_containers = UNCONFIGURED
        if self.configured:
            self.no_buckets = "the object store that is configured has no S3 endpoint (object_store.url)"
            self.no_containers = "the object store that is configured has no Swift endpoint (object_store.swift)"
        if settings.url:
            try:
                self.buckets = Buckets(settings, secret(settings.secret_file, S3_SECRET, environment))
            except NoSecret as problem:
                self.no_buckets = f"the secret key of the object store is missing: {problem}"
        if settings.swift.cloud:
            self.containers = Containers(settings, "")
        elif settings.swift.auth_url:
            try:
                self.containers = Containers(settings, secret(settings.swift.key_file, SWIFT_KEY, environment))
            except NoSecret as problem:
                self.no_containers = f"the key of the object store's Swift user is missing: {problem}"

    async def close(self) -> None:
        """Close the connections."""
        if self.buckets is not None:
            self.buckets.close()
        if self.containers is not None:
            await self.containers.close()
