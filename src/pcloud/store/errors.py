"""The errors of the store, as users see them."""

from __future__ import annotations

from pcloud.model.errors import PcloudError, Problem, Unavailable


class StoreError(Unavailable):
    """The store did not do what was asked; nothing of it was done."""


class StoreRefused(StoreError):
    """What was given can not be kept as it is (too long, not a text, …); trying again would not help."""


class StoreFenced(StoreError):
    """Another daemon owns the store by now; nothing of what was asked was done."""

    @classmethod
    def older(cls, token: int) -> StoreFenced:
        """Make the error of an owner whose token is old."""
        message = f"another daemon owns the store by now (this one's token {token} is old); nothing was done"
        return cls(
            Problem(code="STORE_FENCED", message=message, hint="ask again in a moment: this daemon stands by then")
        )


class StoreFull(PcloudError):
    """There is no room left where the store lives; nothing of what was asked was done."""

    status = 507
