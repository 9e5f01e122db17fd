"""API tokens: who may do what. Only SHA-256 digests are stored; the first token is in `$PCLOUD_HOME/token`.

Concurrency: in the loop only; every lookup is a dictionary access.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from enum import IntEnum

from pcloud.cpe.home import Home, write_private
from pcloud.model.errors import Conflict, InvalidDocument, NotFound, Problem
from pcloud.store.rows import Token
from pcloud.store.tables import Tokens


class Role(IntEnum):
    """Each role may do what those below it may."""

    VIEWER = 1
    """Sees everything but secrets."""
    OPERATOR = 2
    """Changes deployables, images and assemblies."""
    ADMIN = 3
    """Tokens, shutdown."""


ROLES = {role.name.lower(): role for role in Role}
FIRST = "first"


def digest(secret: str) -> str:
    """Return what is stored of a token. Tokens are long and random, so a plain hash is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class TokenBook:
    """All valid tokens."""

    def __init__(self, store: Tokens) -> None:
        self._store = store
        self._known: dict[str, Token] = {}

    async def load(self, home: Home) -> None:
        """Read the tokens; make the first one, or take up what its file says now. OSError when the file can not be."""
        self._known = {token.digest: token for token in await self._store.list()}
        try:
            secret = home.token.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            secret = ""
        if len(secret) < 16:
            secret = secrets.token_urlsafe(32)
            write_private(home.token, secret.encode() + b"\n")
        elif home.token.stat().st_mode & 0o077:
            home.token.chmod(0o600)
        if digest(secret) not in self._known:
            await self._store.remove(FIRST)  # the file is the truth: whoever changed it changed the token
            self._known = {key: token for key, token in self._known.items() if token.name != FIRST}
            await self._add(FIRST, "admin", secret)

    async def _add(self, name: str, role: str, secret: str) -> Token:
        token = Token(name=name, role=role, digest=digest(secret), created=time.time())
        await self._store.put(token)
        self._known[token.digest] = token
        return token

    async def create(self, name: str, role: str) -> tuple[Token, str]:
        """Make a token; its secret is returned here and never again."""
        problems = []
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
            problems.append(
                Problem(code="INVALID_NAME", message="letters, digits, `_`, `.` and `-`, at most 63", path="name")
            )
        if role not in ROLES:
            problems.append(
                Problem(code="INVALID_VALUE", message="role must be viewer, operator or admin", path="role")
            )
        if problems:
            raise InvalidDocument.from_problems(problems)
        if any(token.name == name for token in self._known.values()):
            raise Conflict(Problem(code="TOKEN_EXISTS", message=f"there is a token {name} already"))
        secret = secrets.token_urlsafe(32)
        return await self._add(name, role, secret), secret

    async def remove(self, name: str) -> None:
        """Make a token invalid at once; NotFound. The last admin stays: Conflict."""
        found = [token for token in self._known.values() if token.name == name]
        if not found:
            raise NotFound(Problem(code="NO_SUCH_TOKEN", message=f"there is no token `{name[:80]}`"))
        admins = [token for token in self._known.values() if token.role == "admin"]
        if admins == found:
            raise Conflict(Problem(code="LAST_ADMIN", message="the last admin token can not be removed"))
        await self._store.remove(name)
        self._known = {key: token for key, token in self._known.items() if token.name != name}

    def list(self) -> list[Token]:
        """Return all, by name."""
        return sorted(self._known.values(), key=lambda token: token.name)

    def role(self, secret: str) -> Role | None:
        """Return what the bearer of this token may do; None when it is not valid."""
        token = self._known.get(digest(secret)) if secret else None
        return ROLES[token.role] if token is not None else None
