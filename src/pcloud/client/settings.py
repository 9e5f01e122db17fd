"""Where the daemon is and what opens it: $PCLOUD_HOME, $PCLOUD_URL, $PCLOUD_TOKEN, $PCLOUD_CA and their command-line forms.

Reads the environment and one small file; keeps nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from pcloud.client.errors import BadSettings

DEFAULT_HOME = "/var/lib/pcloud"
DEFAULT_URL = "http://127.0.0.1:8780"
MAX_TOKEN = 4096


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach one daemon."""

    url: str = DEFAULT_URL
    """Base address, without a trailing slash."""
    token: str = ""
    """Empty when none was found; then only what the API shows to everybody works."""
    home: str = DEFAULT_HOME
    """The state folder of a daemon on this machine."""
    ca: str = ""
    """PEM file of a certificate that is trusted beside those of the system; the daemon's own of this machine by default."""
    token_source: str = ""
    """Where the token came from, for error messages: a path or `$PCLOUD_TOKEN`. Never the token itself."""

    @property
    def loopback(self) -> bool:
        """Whether the daemon is on this machine, by its address."""
        host = urlsplit(self.url).hostname or ""
        return host in {"localhost", "::1"} or host.startswith("127.")

    def __repr__(self) -> str:
        return f"Settings(url={self.url!r}, home={self.home!r}, token_source={self.token_source!r})"


def load(*, url: str | None = None, token_file: str | None = None) -> Settings:
    """Resolve the settings; arguments win over the environment, which wins over the defaults.

    The token is looked for in `token_file`, $PCLOUD_TOKEN, then $PCLOUD_HOME/token. BadSettings when the address is not
    one, or a token file that was named can not be read.
    """
    home = os.environ.get("PCLOUD_HOME") or DEFAULT_HOME
    address = (url or os.environ.get("PCLOUD_URL") or DEFAULT_URL).rstrip("/")
    try:
        parts = urlsplit(address)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BadSettings.of(
            "BAD_URL",
            f"{address!r} is not an address of a daemon",
            hint=f"give --url or $PCLOUD_URL as http://HOST:PORT, such as {DEFAULT_URL}",
        )
    token, source = _token(home, token_file)
    ca = os.environ.get("PCLOUD_CA") or str(Path(home) / "tls" / "certificate.pem")
    return Settings(url=address, token=token, home=home, ca=ca, token_source=source)


def _token(home: str, token_file: str | None) -> tuple[str, str]:
    """Return the token and where it came from; ("", "") when there is none."""
    if token_file:
        return _read(Path(token_file)), token_file
    if token := os.environ.get("PCLOUD_TOKEN", "").strip():
        _check(token, "$PCLOUD_TOKEN")
        return token, "$PCLOUD_TOKEN"
    path = Path(home) / "token"
    try:
        return _read(path), str(path)
    except BadSettings:
        # No daemon ran here yet, or we may not read it: the API will tell, with the better message.
        return "", ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TOKEN + 1)
        token = raw.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadSettings.of(
            "BAD_TOKEN_FILE",
            f"the token file {path} can not be read: {reason}",
            hint="name another with --token-file, or set $PCLOUD_TOKEN",
        ) from None
    _check(token, str(path))
    return token


def _check(token: str, source: str) -> None:
    """A token goes into an HTTP header: refuse what would break it, without showing it."""
    if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise BadSettings.of(
            "BAD_TOKEN",
            f"what {source} holds is not a token",
            hint="`pcloud token create` makes one; the daemon writes the first to $PCLOUD_HOME/token",
        )
