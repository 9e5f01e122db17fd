"""The machine's own apt: where its mirrors are, which suites they serve, the settings that apt in an image needs too.

Nothing about mirrors is written into this package but the public default of distributions that the host does not use.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

import msgspec

from pcloud.images.definitions import JeosDefinition
from pcloud.model.errors import Unavailable

HELPER = "/usr/lib/apt/apt-helper"
KEYRING_PACKAGES = {"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}
KEPT = re.compile(r'^Acquire::(?:\w+::Proxy\S*|Check-Valid-Until|Check-Date|https?::(?:Verify\S*|CaInfo)) ".*";$')


class Source(msgspec.Struct, frozen=True):
    """One line (or stanza) of apt's sources, flattened."""

    uri: str
    suite: str
    components: tuple[str, ...]


def read_sources(folder: Path = Path("/etc/apt")) -> list[Source]:
    """Return the binary package sources of the host, one entry for each URI and suite."""
    found: list[Source] = []
    for file in (folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))):
        if not file.is_file():
            continue
        text = file.read_text(errors="replace")
        if file.suffix == ".sources":
            found += _deb822(text)
        elif file.suffix == ".list":
            found += _one_line(text)
    return found


def _one_line(text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", "", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            found.append(Source(words[1].rstrip("/"), words[2], tuple(words[3:])))
    return found


def _deb822(text: str) -> list[Source]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields.setdefault(key, []).extend(line.split())
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.split()
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
            found += [
                Source(uri.rstrip("/"), suite, tuple(fields.get("components", [])))
                for uri in fields.get("uris", [])
                for suite in fields.get("suites", [])
            ]
    return found


def host_release(path: Path = Path("/etc/os-release")) -> tuple[str, str]:
    """Return the host's distribution and its release's code name."""
    values = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return values.get("ID", "").strip('"'), values.get("VERSION_CODENAME", "").strip('"')


def candidates(definition: JeosDefinition, suite: str, sources: list[Source], host: tuple[str, str]) -> list[str]:
    """Return the mirrors that may serve a suite, best first: those that serve it to the host; those that serve the host the
    corresponding suite of its own release; the definition's."""
    distribution, codename = host
    found = [s.uri for s in sources if s.suite == suite]
    if distribution == definition.distribution:
        own = codename + suite.removeprefix(definition.suite)
        found += [s.uri for s in sources if s.suite in (own, f"{own}/")]
    if definition.mirror:
        found.append(definition.mirror)
    return list(dict.fromkeys(found))


async def source_lines(definition: JeosDefinition) -> list[str]:
    """Return the `deb` lines from which a JEOS is built. Unavailable when no mirror serves its suite."""
    host, sources = host_release(), read_sources()
    lines = []
    tried = []
    for suite in (definition.suite, *definition.extra_suites):
        for uri in candidates(definition, suite, sources, host):
            if await serves(uri, suite):
                lines.append(f"deb {uri} {suite} {' '.join(definition.components)}")
                break
            tried.append(uri)
        else:
            if suite == definition.suite:
                raise Unavailable.of(
                    "SUITE_NOT_SERVED",
                    f"no mirror that this machine's apt uses serves {definition.title} ({suite})"
                    + (f"; asked: {', '.join(tried)}" if tried else ""),
                    hint=f"add a mirror that serves {suite} to /etc/apt/sources.list.d, or set `mirror` in "
                    f"/etc/pcloud/jeos/{definition.name}.yaml",
                )
    missing = _missing(definition.keyrings)
    if missing:
        raise Unavailable.of(
            "KEYRING_MISSING",
            f"{definition.title}: {', '.join(missing)} is missing",
            hint=f"apt-get install {KEYRING_PACKAGES.get(definition.distribution, 'the package that has it')}",
        )
    return lines


def _missing(files: tuple[str, ...]) -> list[str]:
    return [file for file in files if not Path(file).exists()]


async def serves(uri: str, suite: str) -> bool:
    """Tell whether a mirror serves a suite, asked with apt's own means (proxies, credentials)."""
    with tempfile.TemporaryDirectory(prefix="pcloud-apt-") as folder:
        for name in ("InRelease", "Release"):
            process = await asyncio.create_subprocess_exec(
                HELPER, "-o", "Acquire::Retries=1", "download-file", f"{uri}/dists/{suite}/{name}", f"{folder}/{name}",
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                if await asyncio.wait_for(process.wait(), 60.0) == 0:
                    return True
            finally:
                if process.returncode is None:
                    process.kill()
    return False


async def settings() -> list[str]:
    """Return the lines of the host's apt configuration that apt needs in an image as well: proxies and checks."""
    process = await asyncio.create_subprocess_exec(
        "apt-config", "dump", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await process.communicate()
    return [line for line in stdout.decode(errors="replace").splitlines() if KEPT.match(line)]
