"""What goes wrong with an object store."""

from __future__ import annotations

from pcloud.model.errors import PcloudError


class ObjectStoreError(PcloudError):
    """The store did not answer, or refused; the message is the store's own and holds no secret."""

    status = 503
