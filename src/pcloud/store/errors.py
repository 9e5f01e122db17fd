"""The errors of the store, as users see them."""

from __future__ import annotations

from pcloud.model.errors import PcloudError, Unavailable


class StoreError(Unavailable):
    """The store did not do what was asked; nothing of it was done."""


class StoreRefused(StoreError):
    """What was given can not be kept as it is (too long, not a text, …); trying again would not help."""


class StoreFull(PcloudError):
    """There is no room left where the store lives; nothing of what was asked was done."""

    status = 507
