"""What a drill costs those who use what is drilled: pages asked for all the while, and how long they did not answer.

Concurrency: one task a page, each with one request at a time, on a connection of its own, as a new user would have. Only
counters are kept, so a long drill costs no more than a short one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from pcloud.model.errors import InvalidDocument, Problem

if TYPE_CHECKING:
    import httpx2

INTERVAL = 0.1
"""Seconds between the beginnings of two requests for a page: the precision of the time that was lost."""
TIMEOUT = 2.0
"""Seconds after which a request that is not answered has failed."""
MOST = 10


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests for one page, from just before the fault to the end of the drill."""

    url: str
    asked: int
    failed: int
    """Not answered within two seconds, or with a status of 400 and above."""
    unanswered_s: float
    """Seconds without an answer: from the beginning of each first failed request to the end of the next good one."""
    slowest_s: float
    """Seconds that the slowest request took, answered or not: a page that was away for less than two seconds fails no
    request that can wait so long, but whoever asked for it waited."""
    answers: bool
    """Whether it answered in the end."""
    error: str = ""
    """Why the last failed request failed."""


def check(urls: Sequence[str]) -> None:
    """Raise InvalidDocument when these are no pages that can be asked for."""
    import httpx2

    problems = []
    if len(urls) > MOST:
        problems.append(Problem(code="BAD_PROBE", message=f"at most {MOST} pages can be asked for at once"))
    for url in urls:
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            problems.append(Problem(code="BAD_PROBE", message=f"{url[:200]!r} is no URL: {error}"))
            continue
        if parsed.scheme not in ("http", "https") or not parsed.host:
            problems.append(Problem(code="BAD_PROBE", message=f"{url[:200]!r} is no http or https URL"))
        elif parsed.userinfo:
            problems.append(
                Problem(code="BAD_PROBE", message="a probe's URL holds no password: it is kept in the report")
            )
    if problems:
        raise InvalidDocument.from_problems(problems)


class Probes:
    """The pages of one drill; a context in which they are asked for."""

    def __init__(self, urls: Sequence[str]) -> None:
        """`urls` passed `check`."""
        self._pages = [_Page(url) for url in dict.fromkeys(urls)]
        self._tasks: list[asyncio.Task[None]] = []
        self._client: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Probes:
        if self._pages:
            import httpx2

            # No certificate is checked: nothing secret is sent, and what is asked is whether anything answers.
            limits = httpx2.Limits(max_keepalive_connections=0)
            self._client = httpx2.AsyncClient(
                timeout=TIMEOUT, verify=False, trust_env=False, limits=limits, follow_redirects=False
            )
            await asyncio.gather(*(page.ask(self._client) for page in self._pages))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def silent(self) -> list[Problem]:
        """Return the pages whose last request failed, each as a reason against a drill."""
        return [
            Problem(
                code="DRILL_UNSAFE", message=f"{page.url} does not answer before the drill: {page.error}",
                hint="--force drills all the same",
            )
            for page in self._pages
            if page.down_since is not None
        ]  # fmt: skip

    def start(self) -> None:
        """Ask for every page again and again from now on."""
        for page in self._pages:
            page.begin()
            assert self._client is not None
            self._tasks.append(asyncio.create_task(page.keep_asking(self._client)))

    async def finish(self, seconds: float) -> tuple[Probe, ...]:
        """Wait until every page has answered a request that began from now on, at most so many seconds; return the
        reports."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                for page in self._pages:
                    await page.answered_since(now)
        except TimeoutError:
            pass  # the report says which page does not answer
        return tuple(page.report(loop.time()) for page in self._pages)


class _Page:
    def __init__(self, url: str) -> None:
        self.url = url
        self.error = ""
        self.down_since: float | None = None
        """When the first of the requests that fail at present began."""
        self._good_since = 0.0
        """When the newest good request began."""
        self._asked = self._failed = 0
        self._lost = self._slowest = 0.0
        self._answered = asyncio.Event()

    def begin(self) -> None:
        """Count from now on."""
        self._asked = self._failed = 0
        self._lost = self._slowest = 0.0
        self.error = ""
        if self.down_since is not None:
            self.down_since = asyncio.get_running_loop().time()

    async def keep_asking(self, client: httpx2.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL
            await self.ask(client)
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def ask(self, client: httpx2.AsyncClient) -> None:
        import httpx2

        loop = asyncio.get_running_loop()
        began, error = loop.time(), ""
        try:
            async with asyncio.timeout(TIMEOUT), client.stream("GET", self.url) as response:
                if response.status_code >= 400:
                    error = f"it answered {response.status_code}"
        except TimeoutError:
            error = f"no answer within {TIMEOUT:g} s"
        except httpx2.HTTPError as failure:
            error = f"{failure or type(failure).__name__}"
        self._asked += 1
        self._slowest = max(self._slowest, loop.time() - began)
        if error:
            self._failed += 1
            self.error = error
            self.down_since = began if self.down_since is None else self.down_since
            return
        if self.down_since is not None:
            self._lost += loop.time() - self.down_since
            self.down_since = None
        self._good_since = began
        self._answered.set()

    async def answered_since(self, moment: float) -> None:
        while self._good_since < moment or self.down_since is not None:
            self._answered.clear()
            await self._answered.wait()

    def report(self, now: float) -> Probe:
        lost = self._lost + (now - self.down_since if self.down_since is not None else 0.0)
        return Probe(
            url=self.url, asked=self._asked, failed=self._failed, unanswered_s=round(lost, 3),
            slowest_s=round(self._slowest, 3), answers=self.down_since is None, error=self.error,
        )  # fmt: skip
