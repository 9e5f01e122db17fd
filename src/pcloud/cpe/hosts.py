"""Hosts as assemblies, as far as the daemon has a say: whether the configuration has what a deployable asks for, that no two
deployables have the same host, and the keys that open it.

Reading keys blocks no longer than a few small files take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcloud.cpe.keys import Keys
from pcloud.environment.infrastructure import Identity
from pcloud.infrastructure.hosts_settings import HostsSettings, access, configured, lacking, unfenced
from pcloud.model.deployable import Deployable
from pcloud.model.errors import Conflict, InvalidDocument, PcloudError, Problem
from pcloud.model.names import did_you_mean
from pcloud.model.validation import HOSTS
from pcloud.store.rows import Definition


def check(deployable: Deployable, infrastructures: Mapping[str, Any]) -> None:
    """Raise InvalidDocument with every host that is not configured, can not be entered as its assembly wants, or has
    neither a fence device nor the word that it needs none."""
    settings, problems = configured(infrastructures.get(HOSTS, {})), []
    for assembly in deployable.assemblies:
        path = f"assemblies.{assembly.name}.host"
        host = settings.host.get(assembly.host)
        if host is None:
            message = f"there is no host `{assembly.host}` in the configuration"
            hint = did_you_mean(assembly.host, settings.host) or "write it as [infrastructures.hosts.host.NAME]"
            problems.append(Problem(code="UNKNOWN_HOST", message=message, path=path, hint=hint))
            continue
        if wrong := lacking(host, assembly.transport):
            message = f"host {assembly.host}: {wrong}"
            hint = f"in [infrastructures.hosts.host.{assembly.host}]"
            problems.append(Problem(code="HOST_WITHOUT_KEY", message=message, path=path, hint=hint))
        if host.fence is None and not host.unfenced:
            problems.append(unfenced(assembly.host))
        try:
            access(assembly.host, host)
        except PcloudError as error:
            problems += error.problems
    if problems:
        raise InvalidDocument(*problems)


def taken(deployable: Deployable, others: Mapping[str, Definition]) -> None:
    """Raise Conflict when another deployable has, or still has, one of the hosts."""
    holders = {
        assembly.host: name
        for name, found in others.items()
        for one in (found.deployable, found.applied)
        if one is not None and name != deployable.name
        for assembly in one.assemblies
        if assembly.host
    }
    problems = [
        Problem(
            code="HOST_IN_USE",
            message=f"host {assembly.host} is in use by the deployable {holders[assembly.host]}",
            path=f"assemblies.{assembly.name}.host",
            hint="a host belongs to one deployable: use another, or delete that deployable first",
        )
        for assembly in deployable.assemblies
        if assembly.host in holders
    ]
    if problems:
        raise Conflict(*problems)


class HostKeys:
    """What opens hosts, as it is found once: the settings are read at the first question, each host's keys at the first for
    it. For one pass over deployables, so that all of it acts on the same keys; blocking, not for several threads at once."""

    def __init__(self, infrastructures: Mapping[str, Any]) -> None:
        self._table: Mapping[str, Any] = infrastructures.get(HOSTS, {})
        self._settings: HostsSettings | None = None
        self._keys: dict[str, Keys] = {}

    def get(self, name: str) -> Keys:
        """Return what opens a host, nothing for one that is not configured any more; InvalidDocument for settings that are
        no good, Unavailable when a key can not be read."""
        if name not in self._keys:
            self._keys[name] = self._read(name)
        return self._keys[name]

    def _read(self, name: str) -> Keys:
        if self._settings is None:
            self._settings = configured(self._table)
        host = self._settings.host.get(name)
        if host is None:
            return Keys(identity=Identity(hostname=name))
        found = access(name, host)
        return Keys(identity=found.identity, private_key=found.private_key, host_key=found.host_key)
