"""Calls AWS's Query protocol (CloudWatch, Auto Scaling) as tools in guests do, and reads the answers."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode
from xml.etree import ElementTree

import httpx2
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


class Client:
    """Signs Query requests, as boto does in a guest."""

    def __init__(self, url: str, key: str, secret: str) -> None:
        self._url, self._credentials = url, Credentials(key, secret)

    async def __call__(self, action: str, fields: Mapping[str, object] | None = None) -> httpx2.Response:
        form = {"Action": action, "Version": "2010-08-01", **{k: str(v) for k, v in (fields or {}).items()}}
        body = urlencode(form)
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        request = AWSRequest(method="POST", url=f"{self._url}/v1", data=body, headers=headers)
        SigV4Auth(self._credentials, "monitoring", "local").add_auth(request)
        async with httpx2.AsyncClient() as client:
            return await client.post(f"{self._url}/v1", content=body, headers=dict(request.headers.items()))


def texts(response: httpx2.Response, path: str) -> list[str | None]:
    """The texts of all elements at a path like `Metrics/member`, whatever their namespace."""
    tree = ElementTree.fromstring(response.text)
    return [item.text for item in tree.iterfind(".//" + "/".join(f"{{*}}{name}" for name in path.split("/")))]
