"""Object stores that hang, lie, or repeat what they should not: errors come in time, and without the secret."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pcloud.cpe.certificates import self_signed
from pcloud.objects.checks import checks
from pcloud.objects.errors import ObjectStoreError
from pcloud.objects.settings import ObjectStoreSettings, SwiftSettings
from pcloud.objects.store import ObjectStore

SECRET = "Sup3rS3cretKey"


@contextlib.asynccontextmanager
async def answering(
    answer: Callable[[bytes], bytes | None], context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve one raw answer a connection; None stays silent until the client leaves."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            said = answer(head)
            if said is None:
                await reader.read()
            else:
                writer.write(said)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    scheme = "https" if context else "http"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*serving), 60)


def reply(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def store(url: str, **changed: object) -> ObjectStore:
    given: dict[str, object] = {
        "url": url,
        "access_key": "key",
        "timeout": 60.0,
        "swift": SwiftSettings(auth_url=f"{url}/auth/v1.0", user="a:b"),
        **changed,
    }
    environment = {"PCLOUD_OBJECT_STORE_SECRET": SECRET, "PCLOUD_SWIFT_KEY": SECRET}
    return ObjectStore(ObjectStoreSettings(**given), environment)  # type: ignore[arg-type]


async def errors(objects: ObjectStore, *, doctor: bool = True) -> list[str]:
    """What both interfaces say."""
    assert objects.buckets is not None
    assert objects.containers is not None
    found = []
    for attempt in (objects.buckets.create("bucket"), objects.containers.create("container", {})):
        with pytest.raises(ObjectStoreError) as caught:
            await attempt
        found.append(caught.value.problems[0].message)
    if doctor:
        found += [line.detail for line in await checks(objects)]
    await objects.close()
    assert SECRET not in repr(found)
    return found


async def test_an_answer_that_repeats_the_secret() -> None:
    said = f"<Error><Code>Odd</Code><Message>your key {SECRET} is odd {'x' * 10_000}</Message></Error>".encode()
    async with answering(lambda _: reply("403 Forbidden", said)) as url:
        found = await errors(store(url))
    assert "your key *** is odd" in found[0]
    assert all(len(each) < 500 for each in found)
    assert "403 Forbidden" in found[1]


async def test_a_reason_phrase_that_repeats_the_secret() -> None:
    async with answering(lambda _: reply(f"403 {SECRET}")) as url:
        await errors(store(url))


@pytest.mark.parametrize("said", [None, b"", b"nonsense\r\n\r\n", reply("200 OK", b"<html>")[:-3]])
async def test_silence_and_nonsense_end(said: bytes | None) -> None:
    timeout = 60.0 if said is not None else 1.0
    async with answering(lambda _: said) as url:
        await errors(store(url, timeout=timeout), doctor=said is not None)  # which would be silent once more


async def test_an_authentication_that_gives_no_token() -> None:
    async with answering(lambda _: reply("200 OK")) as url:
        objects = store(url)
        assert objects.containers is not None
        with pytest.raises(ObjectStoreError, match="gives a:b no token"):
            await objects.containers.exists("x")
        await objects.close()


async def test_a_certificate_is_checked_and_a_token_stays_protected(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path / "tls", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    headers = ("X-Auth-Token: t", "X-Storage-Url: http://127.0.0.1:9/v1/a")
    async with answering(lambda _: reply("200 OK", b"", *headers), context) as url:
        for said in await errors(store(url)):
            assert "certificate" in said.lower()
        trusting = store(url, ca_file=str(certificate))
        assert trusting.buckets is not None
        assert trusting.containers is not None
        assert await trusting.buckets.exists("bucket")
        with pytest.raises(ObjectStoreError, match="in the clear"):
            await trusting.containers.exists("x")
        await trusting.close()


@pytest.mark.parametrize("listing", [b"<html>", b"[1]", b"{}x", b'[{"subdir": "a/"}]', b"\xff"])
async def test_a_listing_of_nonsense(listing: bytes) -> None:
    def answer(head: bytes) -> bytes:
        if b"/auth/" in head:
            host = head.split(b"\r\nHost: ")[1].split(b"\r\n")[0].decode()
            return reply("200 OK", b"", "X-Auth-Token: t", f"X-Storage-Url: http://{host}/v1/a")
        return reply("200 OK", listing) if head.startswith(b"GET") else reply("409 Conflict")

    async with answering(answer) as url:
        objects = store(url)
        assert objects.containers is not None
        with pytest.raises(ObjectStoreError, match="words of its own"):
            await objects.containers.delete("box", purge=True)
        with pytest.raises(ObjectStoreError, match="Unicode"):
            await objects.containers.change("box", {"X-Container-Read": "\u20ac"})
        await objects.close()


@pytest.mark.parametrize(
    ("addressing", "website", "domain", "url"),
    [
        ("path", "", "s3.example.org:8443", "https://s3.example.org:8443/b"),
        ("virtual", "", "b.s3.example.org:8443", "https://b.s3.example.org:8443"),
        ("virtual", "http://{bucket}.web.example.org/", "b.s3.example.org:8443", "http://b.web.example.org/"),
    ],
)
async def test_where_a_bucket_is(addressing: str, website: str, domain: str, url: str) -> None:
    objects = store("https://s3.example.org:8443", addressing=addressing, website_url=website)
    assert objects.buckets is not None
    assert (objects.buckets.domain("b"), objects.buckets.website("b")) == (domain, url)
    await objects.close()
