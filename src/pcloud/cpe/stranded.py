"""Which deployables this daemon must leave alone though it owns the store: another daemon's host has their guests.

Guests of an infrastructure on one host (LXC, libvirt by a local address) are there and nowhere else, and guests whose keys
are not here can not be spoken to. An engine that was given them would find none, or none that answers, and make them anew.
Pure but for a look whether key files are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pcloud.cpe.keys import KeyStore
from pcloud.infrastructure.capabilities import bound_to_host
from pcloud.model.deployable import Deployable
from pcloud.store.lease import Holder
from pcloud.store.rows import DeployableRow


class Stranded:
    """The judgement, for one daemon."""

    def __init__(
        self, who: Holder | None, keys: KeyStore, infrastructures: Callable[[], Mapping[str, dict[str, Any]]]
    ) -> None:
        """`who` is this daemon; None where its store has no other."""
        self.who = who
        self._keys = keys
        self._infrastructures = infrastructures

    def ours(self, row: DeployableRow) -> bool:
        """Tell whether it was this daemon that gave a deployable to engines last, or nobody yet."""
        return self.who is None or not row.loaded or row.holder in (None, self.who.id)

    def why(self, row: DeployableRow, deployable: Deployable) -> str:
        """Return why a deployable is left alone, a sentence; empty when it is not. Looks at files."""
        if self.ours(row):
            return ""
        there = row.host or "another host"
        way_out = f"; `pcloud recover {row.name}` makes them anew here once those of {there} are gone for good"
        if bound_to_host(row.infrastructure, self._infrastructures().get(row.infrastructure, {})):
            return f"its guests are on {there}, which does not own the store now{way_out}"
        missing = [one.name for one in deployable.assemblies if not self._keys.has(row.name, one.name)]
        if missing:
            return (
                f"its guests were made by {there}, and the keys of {', '.join(missing)} are not in this daemon's folder: "
                f"share the folder `keys`{way_out}"
            )
        return ""
