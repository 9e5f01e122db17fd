"""What `doctor` says about OpenStack: the library, whose credentials there are, whether the cloud takes them, and whether it
has what the settings name. Asks the cloud; changes nothing. Blocking, for half a minute at most."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from pcloud.environment.infrastructure import Capability, InfrastructureError
from pcloud.infrastructure.openstack_settings import OpenStackSettings
from pcloud.model.check import Check

_TIMEOUT = 5.0
"""Seconds for each request."""
_WRITE = "write ~/.config/openstack/clouds.yaml, or source your cloud's openrc before pcloud up"


def lacking(settings: Mapping[str, Any]) -> dict[Capability, str]:
    """Return what guests can not have with these settings though OpenStack's can, with the reason."""
    known = msgspec.convert(settings, OpenStackSettings)
    if known.network == "none":
        return {Capability.ADDRESSES: "with infrastructures.openstack.network = none servers have no network"}
    if not known.floating_network:
        return {Capability.ADDRESSES: "infrastructures.openstack.floating_network names no external network"}
    return {}


def checks(settings: Mapping[str, Any]) -> list[Check]:
    """Return what this machine can and can not do with OpenStack, by the infrastructure's settings."""
    if importlib.util.find_spec("openstack") is None:
        hint = "pip install openstacksdk (`make setup` and the Debian package bring it)"
        return [Check(check="openstack: openstacksdk", state="missing", hint=hint)]
    found = [Check(check="openstack: openstacksdk", state="ok")]
    try:
        known = msgspec.convert({**settings, "call_timeout": _TIMEOUT}, OpenStackSettings)
    except msgspec.ValidationError as error:
        hint = "see docs/infrastructures.md"
        return [*found, Check(check="openstack: settings", state="missing", detail=str(error), hint=hint)]
    return [*found, *_ask(known)]


def _ask(settings: OpenStackSettings) -> Iterator[Check]:
    import openstack.connection
    from openstack.exceptions import ConfigException

    from pcloud.infrastructure.openstack_credentials import region
    from pcloud.infrastructure.openstack_session import CLOUD_ERRORS, translate

    try:
        cloud = region(settings)
    except ConfigException as error:
        detail = " ".join(str(error).split())
        yield Check(check="openstack: credentials", state="missing", detail=detail, hint=_WRITE)
        return
    auth = cloud.config.get("auth") or {}
    whose = auth.get("username") or auth.get("application_credential_id") or auth.get("user_id") or "someone"
    where = f"{whose} at {auth.get('auth_url', 'no auth_url')} ({cloud.name or 'environment'})"
    with openstack.connection.Connection(config=cloud) as connection:
        try:
            connection.authorize()
            yield Check(check="openstack: credentials", state="ok", detail=where)
            yield from _project(connection, settings)
        except CLOUD_ERRORS as error:
            detail = f"{where}: {translate(error)}"
            yield Check(
                check="openstack: cloud", state="missing", detail=detail, hint="`openstack server list` asks the same"
            )


def _project(connection: Any, settings: OpenStackSettings) -> Iterator[Check]:
    limits = connection.compute.get_limits().absolute
    used, most = limits.instances_used or 0, limits.instances
    full = most is not None and 0 <= most <= used
    hint = "guests of ours can not be started: have the quota raised, or delete servers" if full else ""
    detail = f"{used} of {most if most is not None and most >= 0 else 'any number of'} instances"
    yield Check(check="openstack: quota", state="warning" if full else "ok", detail=detail, hint=hint)
    if settings.flavor:
        yield _there("flavor", settings.flavor, connection.compute.find_flavor(settings.flavor))
    if settings.network not in ("auto", "none"):
        yield _there("network", settings.network, connection.network.find_network(settings.network))
    yield _floating(connection, settings.floating_network)


def _floating(connection: Any, wanted: str) -> Check:
    from pcloud.infrastructure.openstack_addresses import external

    check = "openstack: floating_network"
    if not wanted:
        return Check(check=check, state="ok", detail="none is named: stacks have no elastic and floating addresses")
    try:
        external(connection, wanted)
    except InfrastructureError as problem:
        hint = "`openstack network list --external` shows what there is; change `floating_network`"
        return Check(check=check, state="missing", detail=str(problem), hint=hint)
    return Check(check=check, state="ok", detail=wanted)


def _there(what: str, name: str, found: Any) -> Check:
    if found is not None:
        return Check(check=f"openstack: {what}", state="ok", detail=name)
    hint = f"`openstack {what} list` shows what there is; change `{what}` in [infrastructures.openstack]"
    return Check(check=f"openstack: {what}", state="missing", detail=f"there is no {what} {name!r}", hint=hint)
