"""Who is asking, and may they: bearer tokens and roles."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from pcloud.cpe.tokens import Role, TokenBook
from pcloud.model.errors import PcloudError, Problem

_bearer = HTTPBearer(
    auto_error=False, description="The token in `$PCLOUD_HOME/token`, or one made with `POST /v1/tokens`"
)
_header = APIKeyHeader(name="X-Auth-Token", auto_error=False)


class Unauthorized(PcloudError):
    """No valid token."""

    status = 401


class Forbidden(PcloudError):
    """The token's role does not allow this."""

    status = 403


def role_of(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> Role:
    """Return the role of whoever asks; Unauthorized."""
    book: TokenBook = request.app.state.tokens
    role = book.role(bearer.credentials if bearer is not None else header or "")
    if role is None:
        raise Unauthorized(
            Problem(
                code="UNAUTHORIZED",
                message="a valid token is needed",
                hint="send `Authorization: Bearer TOKEN`; the first token is in $PCLOUD_HOME/token",
            )
        )
    return role


def need(least: Role) -> Any:
    """Return a dependency that lets this role and those above it pass."""

    def check(role: Annotated[Role, Depends(role_of)]) -> Role:
        if role < least:
            raise Forbidden(
                Problem(
                    code="FORBIDDEN",
                    message=f"this needs the role {least.name.lower()}, the token has {role.name.lower()}",
                )
            )
        return role

    return Depends(check)


VIEWER = need(Role.VIEWER)
OPERATOR = need(Role.OPERATOR)
ADMIN = need(Role.ADMIN)
