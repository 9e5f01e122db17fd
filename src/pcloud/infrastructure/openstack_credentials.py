"""Whose credentials a driver uses: `clouds.yaml` or `OS_*`, read by openstacksdk's own configuration.

Owns the rule by which a deployable's `username` finds its entry. Blocking (it reads files); no state.
"""

from __future__ import annotations

from typing import Any

from keystoneauth1.exceptions import AuthPluginException
from openstack.config import OpenStackConfig
from openstack.exceptions import ConfigException

from pcloud.infrastructure.openstack_settings import OpenStackSettings

APPLICATION = "pacemaker-cloud"


def region(settings: OpenStackSettings) -> Any:
    """Return the SDK's configuration of the cloud that the settings mean. ConfigException when there is none.

    Without a `username` that is `cloud`, or what `OS_CLOUD` or the other `OS_*` say. With one it is the same where its
    user has that name; else the entry of `clouds.yaml` that is named so, else the first one whose user is named so.
    """
    loader = OpenStackConfig(app_name=APPLICATION)
    if not settings.username:
        return _one(loader, settings, settings.cloud or None)
    unusable: ConfigException | None = None
    for name in dict.fromkeys((settings.cloud or None, settings.username, *loader.get_cloud_names())):
        try:
            found = _one(loader, settings, name)
        except ConfigException as error:
            unusable = error
            continue
        if settings.username in (name, (found.config.get("auth") or {}).get("username")):
            return found
    raise ConfigException(
        f"none of the user {settings.username}: add an entry of that name to clouds.yaml"
    ) from unusable


def _one(loader: Any, settings: OpenStackSettings, name: str | None) -> Any:
    try:
        return loader.get_one(cloud=name, region_name=settings.region or None, api_timeout=settings.call_timeout)
    except AuthPluginException as error:  # no auth_url, no password, …
        raise ConfigException(str(error)) from error
