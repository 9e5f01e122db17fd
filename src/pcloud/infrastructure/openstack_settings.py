"""What the OpenStack driver can be told; credentials come from `clouds.yaml` or `OS_*`, never from here."""

from __future__ import annotations

import msgspec


class OpenStackSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one OpenStack project. Every time in seconds."""

    cloud: str = ""
    """Name in `clouds.yaml`; empty takes `OS_CLOUD` or the `OS_*` variables."""
    username: str = ""
    """In whose name guests are made; the engine sets it to the deployable's `username`."""
    region: str = ""
    prefix: str = "pcloud-"
    """Begins the names of all that is ours: two daemons in one project need two prefixes."""
    flavor: str = ""
    """Name or id; empty takes the smallest flavor that has the memory and processors an assembly asks for."""
    network: str = "auto"
    """Name or id of the network; `auto` lets Nova choose, `none` makes guests without one."""
    floating_network: str = ""
    """Name or id of the external network that gives elastic and floating addresses of stacks; empty: there are none."""
    security_groups: tuple[str, ...] = ()
    anti_affinity: str = "soft-anti-affinity"
    """Policy of the server group that a deployable's guests are in; `anti-affinity` refuses to start a guest where
    another one of the deployable is, empty makes no group."""
    zones: tuple[str, ...] = ()
    """Availability zones in which guests are made; empty takes all that are available."""
    poll: float = 5.0
    """Between two lists of all guests: one call, however many there are."""
    parallel: int = 8
    """Guests made at once."""
    call_timeout: float = 30.0
    """For one HTTP request."""
    delete_timeout: float = 120.0
    """Until a server that is to be gone must be seen to be gone."""
    keep_images: bool = False
    """Whether images stay in Glance when no server of ours is made from them any longer."""
