"""Which certificates the client trusts: the system's, and the one that the daemon of this machine made for itself."""

from __future__ import annotations

import ssl
from pathlib import Path

from pcloud.client.errors import BadSettings


class Trust:
    """A TLS context that takes in the daemon's certificate as soon as it is there: `pcloud up` waits for a daemon that makes
    it first."""

    def __init__(self, ca: str) -> None:
        self.context = ssl.create_default_context()
        self._path = Path(ca) if ca else None
        self._known = 0

    def renew(self) -> None:
        """Take in the certificate when it is new or was changed; BadSettings when the file holds none."""
        if self._path is None:
            return
        try:
            changed = self._path.stat().st_mtime_ns
        except OSError:
            return  # none was made yet, or it is not for us: then the system's certificates must do
        if changed == self._known:
            return
        try:
            self.context.load_verify_locations(self._path)
        except PermissionError:
            return
        except (OSError, ssl.SSLError):
            raise BadSettings.of(
                "BAD_CA", f"{self._path} holds no certificate", hint="$PCLOUD_CA names a PEM file of a certificate"
            ) from None
        self._known = changed
