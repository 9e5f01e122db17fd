"""Stacks over `/v1/stacks`, as plain dictionaries in CloudFormation's own words. Errors: `pcloud.client.errors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pcloud.client.http import Connection

Stack = dict[str, Any]
"""A stack as CloudFormation's API describes one."""


class Stacks:
    """The daemon's stacks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, body: Mapping[str, Any]) -> Stack:
        """Ask for a new stack (`name`, `template`, `parameters`, …); return it as it begins."""
        return self._connection.call("POST", "/v1/stacks", dict, body=body)

    def update(self, name: str, body: Mapping[str, Any]) -> Stack:
        """Ask for a change; return the stack as it begins."""
        return self._connection.call("PUT", _path(name), dict, body=body)

    def delete(self, name: str) -> Stack:
        """Ask for a deletion; return the stack as it begins."""
        return self._connection.call("DELETE", _path(name), dict)

    def plan(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return `changes`, `notes` and the `tree` of what a create or an update would do."""
        return self._connection.call("POST", "/v1/stacks/plan", dict, body=body)

    def all(self) -> list[Stack]:
        """Return the live stacks."""
        return self._connection.call("GET", "/v1/stacks", list)

    def get(self, name: str) -> Stack:
        """Return a stack, by name or id, with its `Resources`."""
        return self._connection.call("GET", _path(name), dict)

    def events(self, name: str, *, after: str = "") -> list[dict[str, Any]]:
        """Return a stack's events, oldest first; those after the event of that id."""
        return self._connection.call("GET", f"{_path(name)}/events", list, query={"after": after})

    def keys(self) -> list[dict[str, Any]]:
        """Return the access keys of the CloudFormation endpoint, without their secrets."""
        return self._connection.call("GET", "/v1/access-keys", list)

    def make_key(self) -> dict[str, Any]:
        """Make an access key; this answer is the only one that shows its secret."""
        return self._connection.call("POST", "/v1/access-keys", dict)

    def delete_key(self, key: str) -> None:
        """Remove an access key."""
        self._connection.call("DELETE", f"/v1/access-keys/{quote(key, safe='')}", dict)

    def volumes(self) -> list[dict[str, Any]]:
        """Return the volumes of guests, those that outlived their stacks too."""
        return self._connection.call("GET", "/v1/volumes", list)

    def delete_volume(self, volume: str) -> None:
        """Remove a volume that nobody has."""
        self._connection.call("DELETE", f"/v1/volumes/{quote(volume, safe='')}", dict)

    def snapshots(self) -> list[dict[str, Any]]:
        """Return the snapshots of volumes."""
        return self._connection.call("GET", "/v1/snapshots", list)

    def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot."""
        self._connection.call("DELETE", f"/v1/snapshots/{quote(snapshot, safe='')}", dict)


def _path(name: str) -> str:
    return f"/v1/stacks/{quote(name, safe='')}"
