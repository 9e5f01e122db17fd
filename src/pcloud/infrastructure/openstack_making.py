"""What a server is made from: key pair, server group, flavor, network, seed, and the request that makes or rebuilds it.

Owns the names of key pairs and groups and what is kept in a server's metadata. Concurrency: blocking functions for the
session's threads; each may be repeated after an answer that was lost.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pcloud.environment.infrastructure import GuestSpec, InfrastructureError
from pcloud.infrastructure import openstack_firewall, seed
from pcloud.infrastructure.openstack_settings import OpenStackSettings

_USER_DATA = 65535
"""Bytes of user data, in base64, that Nova's API takes."""


def create_server(
    connection: Any, settings: OpenStackSettings, spec: GuestSpec, hosts: Mapping[str, str], *, image: str, group: str
) -> None:
    """Ask for a server; it exists when this returns, and may exist when this fails."""
    name = settings.prefix + spec.guest_id
    arguments: dict[str, Any] = {
        "name": name,
        "image_id": image,
        "flavor_id": _flavor(connection, settings.flavor, spec.memory, spec.cpus),
        "networks": _networks(connection, settings.network),
        "metadata": _metadata(spec),
        "user_data": _user_data(spec, hosts),
        "config_drive": True,
    }
    if spec.identity.authorized_key:
        arguments["key_name"] = _ensure_keypair(connection, name, spec.identity.authorized_key)
    groups = list(settings.security_groups)
    if spec.firewall is not None:
        if settings.network == "none":
            raise InfrastructureError("a firewall needs a network", permanent=True)
        groups.append(openstack_firewall.ensure(connection, name, spec.firewall))
    if groups:
        arguments["security_groups"] = [{"name": each} for each in groups]
    if spec.place:
        arguments["availability_zone"] = spec.place
    if group:
        arguments["scheduler_hints"] = {"group": group}
    connection.compute.create_server(**arguments)


def zones(connection: Any, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the availability zones that are available, of those that are wanted if any are. Where none is
    available all count: what is wrong is then told by the servers that can not be made."""
    found = {zone.name: (zone.state or {}).get("available", True) for zone in connection.compute.availability_zones()}
    names = wanted or found
    return tuple(sorted([name for name in names if found.get(name)] or names)) or ("nova",)


def rebuild_server(connection: Any, identity: str, spec: GuestSpec, hosts: Mapping[str, str], *, image: str) -> None:
    """Ask for a server to be made anew from another image."""
    connection.compute.rebuild_server(
        identity, image=image, metadata=_metadata(spec), user_data=_user_data(spec, hosts)
    )


def _metadata(spec: GuestSpec) -> dict[str, str]:
    return {
        "pcloud_digest": spec.digest,
        "pcloud_guest": spec.guest_id,
        "pcloud_image": spec.image.digest,
        "pcloud_boot": new_boot(),
    }


def new_boot() -> str:
    """Return what tells one start of a server from another; Nova has no such thing."""
    return os.urandom(4).hex()


def _user_data(spec: GuestSpec, hosts: Mapping[str, str]) -> str:
    """The seed: what our own images' initrd unpacks, or cloud-init's form for images made by others."""
    if spec.image.kernel:
        data = seed.compressed(seed.tar_seed(spec.guest_id, spec.identity, hosts, dhcp=True, files=spec.seed))
    elif spec.seed:
        raise InfrastructureError(
            f"{spec.image.name} was made by others: only images built here take user data of stacks", permanent=True
        )
    else:
        data = seed.cloud_config(spec.guest_id, spec.identity, hosts)
    encoded = base64.b64encode(data).decode()
    if len(encoded) > _USER_DATA:
        raise InfrastructureError(
            f"{spec.guest_id} has {len(encoded)} bytes of user data, keys and metadata; Nova takes {_USER_DATA}",
            permanent=True,
        )
    return encoded


def _flavor(connection: Any, wanted: str, memory: int, cpus: float) -> str:
    if wanted:
        found = connection.compute.find_flavor(wanted)
        if found is None:
            raise InfrastructureError(f"there is no flavor {wanted!r}", permanent=True)
        return str(found.id)
    fitting = [each for each in connection.compute.flavors() if each.ram >= max(memory, 256) and each.vcpus >= cpus]
    if not fitting:
        raise InfrastructureError(f"no flavor has {memory} MiB and {cpus:g} processors", permanent=True)
    return str(min(fitting, key=lambda each: (each.ram, each.vcpus, each.disk)).id)


def _networks(connection: Any, wanted: str) -> Any:
    if wanted in ("auto", "none"):
        return wanted
    found = connection.network.find_network(wanted)
    if found is None:
        raise InfrastructureError(f"there is no network {wanted!r}", permanent=True)
    return [{"uuid": found.id}]


# --- key pairs


def _ensure_keypair(connection: Any, name: str, public: str) -> str:
    """Return the name of the key pair with that public key; one that was left with another key is replaced."""
    pair, key = keypair_name(name), public.strip()
    found = connection.compute.find_keypair(pair)
    if found is not None and str(found.public_key).split()[:2] != key.split()[:2]:
        connection.compute.delete_keypair(pair, ignore_missing=True)
        found = None
    if found is None:
        connection.compute.create_keypair(name=pair, public_key=key)
    return pair


def delete_keypair(connection: Any, name: str) -> None:
    """Delete a server's key pair."""
    connection.compute.delete_keypair(keypair_name(name), ignore_missing=True)


def keypair_name(name: str) -> str:
    """Key pairs may not have dots in their names; the digest keeps `a.b` and `a-b` apart."""
    return f"{re.sub('[^A-Za-z0-9_-]', '-', name)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


# --- server groups


def ensure_group(connection: Any, name: str, policy: str) -> str:
    """Return the id of the server group of that name."""
    for group in connection.compute.server_groups():
        if group.name == name:
            return str(group.id)
    return str(connection.compute.create_server_group(name=name, policy=policy).id)


def delete_groups(connection: Any, name: str) -> None:
    """Delete the server groups of that name; a repeated request may have made several."""
    for group in list(connection.compute.server_groups()):
        if group.name == name:
            connection.compute.delete_server_group(group.id, ignore_missing=True)
