"""The dashboard's files as the daemon serves them, without a browser."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from pcloud.api.dashboard import install


def client(folder: Path) -> AsyncClient:
    app = FastAPI()
    install(app, folder)
    return AsyncClient(transport=ASGITransport(app), base_url="http://localhost")


async def test_the_files_with_their_headers(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<p>page</p>")
    (tmp_path / "assets" / "x-1234.js").write_text("1")
    (tmp_path.parent / "secret").write_text("secret")
    async with client(tmp_path) as http:
        assert (await http.get("/")).headers["location"] == "/ui/"
        page = await http.get("/ui/")
        assert (page.status_code, page.text) == (200, "<p>page</p>")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-cache"
        script = await http.get("/ui/assets/x-1234.js")
        assert "immutable" in script.headers["cache-control"]
        gone = await http.get("/ui/assets/x-0000.js")
        assert gone.status_code == 404
        assert "immutable" not in gone.headers.get("cache-control", "")
        for path in ("/ui/../secret", "/ui/%2e%2e/secret", "/ui/..%2fsecret", "/ui//etc/passwd"):
            assert (await http.get(path)).status_code in {404, 405}


async def test_without_the_files_it_says_how_to_build_them(tmp_path: Path) -> None:
    async with client(tmp_path) as http:
        for path in ("/ui", "/ui/", "/ui/assets/x.js"):
            answer = await http.get(path)
            assert answer.status_code == 404
            assert "make dashboard" in answer.text
