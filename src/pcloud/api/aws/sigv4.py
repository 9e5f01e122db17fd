"""Checks AWS signatures (version 4): recomputed with botocore, compared in constant time. Pure."""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pcloud.api.aws.query import QueryError

MAX_SKEW = 900.0
"""Seconds that the client's clock may be off."""
_HEADER = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<key>[A-Za-z0-9_-]{1,128})/(?P<date>\d{8})/(?P<region>[^/,\s]{1,64})/"
    r"(?P<service>[^/,\s]{1,64})/aws4_request\s*,\s*SignedHeaders=(?P<signed>[a-zA-Z0-9;_-]{1,2000})\s*,\s*"
    r"Signature=(?P<signature>[0-9a-f]{64})\s*\Z"
)


def check_signature(
    *,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    secret_of: Callable[[str], str | None],
    now: float,
) -> str:
    """Return the access key's id of a rightly signed request; QueryError otherwise.

    Region and service may be anything: guest tools sign with the scope `127`/`0` when the host is an address. Header
    names in `headers` are lower case.
    """
    match = _HEADER.match(headers.get("authorization", ""))
    if match is None:
        raise QueryError("IncompleteSignature", "the Authorization header is not an AWS4-HMAC-SHA256 signature", 403)
    signed = match["signed"].lower().split(";")
    if "host" not in signed or not {"x-amz-date", "date"} & set(signed):
        raise QueryError("IncompleteSignature", "host and date must be among the signed headers", 403)
    stamp = _stamp(headers)
    if not stamp.startswith(match["date"]):
        raise QueryError("SignatureDoesNotMatch", "the date of the scope is not the date of the request", 403)
    try:
        when = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise QueryError("IncompleteSignature", "the date is not of the form YYYYMMDDTHHMMSSZ", 403) from None
    if abs(now - when) > MAX_SKEW:
        raise QueryError("RequestExpired", "the request was signed too long ago, or the clock is wrong", 403)
    digest = hashlib.sha256(body).hexdigest()
    declared = headers.get("x-amz-content-sha256")
    if declared is not None and declared != digest:
        raise QueryError("SignatureDoesNotMatch", "the body is not the one that was signed", 403)
    secret = secret_of(match["key"])
    if secret is None:
        raise QueryError("InvalidClientTokenId", "The security token included in the request is invalid.", 403)
    auth = SigV4Auth(Credentials(match["key"], secret), match["service"], match["region"])
    request = AWSRequest(method=method, url=url, data=body)
    for name in signed:
        if name in headers:
            request.headers[name] = headers[name]
    request.context["timestamp"] = stamp
    text = auth.string_to_sign(request, auth.canonical_request(request))
    if not hmac.compare_digest(auth.signature(text, request), match["signature"]):
        raise QueryError(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your key.",
            403,
        )
    return match["key"]


def _stamp(headers: Mapping[str, str]) -> str:
    stamp = headers.get("x-amz-date", "")
    if stamp:
        return stamp
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(headers.get("date", "")).strftime("%Y%m%dT%H%M%SZ")
    except (TypeError, ValueError):
        raise QueryError("IncompleteSignature", "the request has no date", 403) from None
