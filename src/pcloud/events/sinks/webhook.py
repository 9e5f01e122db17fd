"""Webhook sink: each event is posted as CloudEvents JSON.

With a secret the header `X-Pcloud-Signature: sha256=HEX` carries the HMAC-SHA-256 of the body under that secret, so that
the receiver can tell our events from anybody else's.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from pcloud.events.cloudevents import encode
from pcloud.events.event import Event
from pcloud.events.sinks.base import DeliveryError

if TYPE_CHECKING:
    import httpx2


class Webhook:
    """Posts events to one URL."""

    def __init__(self, url: str, *, host: str, secret: str = "", timeout: float = 10.0) -> None:
        self._url = url
        self._host = host
        self._secret = secret.encode()
        self._timeout = timeout
        self._client: httpx2.AsyncClient | None = None

    async def deliver(self, event: Event) -> None:
        """Post one event; any status below 300 counts as delivered."""
        import httpx2  # heavy, and most daemons have no webhook

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=self._timeout, follow_redirects=False)
        body = encode(event, self._host)
        headers = {"Content-Type": "application/cloudevents+json"}
        if self._secret:
            headers["X-Pcloud-Signature"] = "sha256=" + hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        try:
            response = await self._client.post(self._url, content=body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise DeliveryError(f"the receiver did not answer ({type(error).__name__})") from error
        if response.status_code >= 300:
            raise DeliveryError(f"the receiver answered {response.status_code}")

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None
