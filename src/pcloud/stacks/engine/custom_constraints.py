"""Heat's custom constraints of parameters: what a value must name, or what form it must have.

Those over things are answered by what is here: images and sizes of the catalogue, servers, volumes, networks and ports of
stacks. Names of networks, subnets and key pairs that no stack made are names of somebody else's cloud: they mean what is
here instead, and are taken. A constraint that Heat does not know, or over a service that is not here, holds for no value.

Concurrency: answers from what is known at one moment, on the event loop; nothing is waited for.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any

from pcloud.model.errors import Problem
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.template import Template
from pcloud.stacks.types.networks import is_own_id

Find = Callable[[str], ResourceRecord | None]
Check = Callable[[str, Platform, Find], str]
"""Returns what is wrong with a value; empty when nothing is."""

_SERVERS = ("OS::Nova::Server", "AWS::EC2::Instance", "PCloud::Assembly")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)\Z")
_MAC = re.compile(r"([0-9A-Fa-f]{2}([:-]))([0-9A-Fa-f]{2}\2){4}[0-9A-Fa-f]{2}\Z")
_CRON = re.compile(r"(\*|[0-9A-Za-z]+(-[0-9A-Za-z]+)?)(/[0-9]+)?(,(\*|[0-9A-Za-z]+(-[0-9A-Za-z]+)?)(/[0-9]+)?)*\Z")


def problems(template: Template, values: Mapping[str, Any], platform: Platform, find: Find) -> list[Problem]:
    """Return a problem for each parameter whose value breaks a custom constraint, in Heat's words."""
    result = []
    for name, schema in template.parameters.items():
        if name not in values:
            continue
        for constraint in schema.constraints:
            if constraint.kind != "custom":
                continue
            value = values[name]
            wrong = _wrong(constraint.pattern, value, platform, find, shown=not schema.hidden)
            if wrong:
                sentence = f"Parameter '{name}' is invalid: {constraint.description.strip() or wrong}"
                where = (template.section("parameters"), name)
                hint = _hint(constraint.pattern, platform)
                result.append(template.problem("BAD_PARAMETER", sentence, where, hint=hint))
    return result


def _hint(name: str, platform: Platform) -> str:
    if name == "nova.flavor" and platform.catalogue is not None:
        return f"known are: {', '.join(platform.catalogue.sizes())}; more in the settings, [stacks.sizes]"
    if name == "glance.image":
        return f"there are: {', '.join(platform.images())}; or map it in the settings, [stacks.images]"
    return ""


def _wrong(name: str, value: Any, platform: Platform, find: Find, *, shown: bool) -> str:
    check = CHECKS.get(name)
    for text in (str(item) for item in (value if isinstance(value, list) else [value])):
        said = text[:100] if shown else "******"
        if name.partition(".")[0] in _ABSENT:
            return f"Error validating value '{said}': there is no {_ABSENT[name.partition('.')[0]]} here"
        if check is None:
            return f'"{said}" does not validate {name} (constraint not found)'
        wrong = check(text, platform, find)
        if wrong:
            return f"Error validating value '{said}': {wrong.format(value=said)}"
    return ""


def _flavor(value: str, platform: Platform, find: Find) -> str:
    known = platform.catalogue is None or platform.catalogue.size(value) is not None
    return "" if known else "The Flavor ({value}) could not be found."


def _image(value: str, platform: Platform, find: Find) -> str:
    known = platform.catalogue is None or platform.catalogue.image(value) is not None
    return "" if known else "The Image ({value}) could not be found."


def _of(*types: str, called: str) -> Check:
    """A resource of these types, of any stack."""

    def check(value: str, platform: Platform, find: Find) -> str:
        found = find(value)
        return "" if found is not None and found.type in types else f"The {called} ({{value}}) could not be found."

    return check


def _own(kind: str, called: str) -> Check:
    """An id of ours must be that of something that is there; whatever else it is means what is here."""

    def check(value: str, platform: Platform, find: Find) -> str:
        if value and (not is_own_id(kind, value) or find(value) is not None):
            return ""
        return f"Unable to find {called} with name or id '{{value}}'"

    return check


def _volume(value: str, platform: Platform, find: Find) -> str:
    """One that outlived its stack is nobody's resource: its id has the form that ours have."""
    found = find(value)
    known = is_own_id("vol", value) if found is None else found.type in ("OS::Cinder::Volume", "AWS::EC2::Volume")
    return "" if known else "The Volume ({value}) could not be found."


def _snapshot(value: str, platform: Platform, find: Find) -> str:
    return "" if is_own_id("snap", value) else "The VolumeSnapshot ({value}) could not be found."


def _nothing(called: str) -> Check:
    """Things of which there are none here."""
    return lambda value, platform, find: f"The {called} ({{value}}) could not be found."


def _anything(value: str, platform: Platform, find: Find) -> str:
    return ""


def _form(read: Callable[[str], Any], otherwise: str, *, empty: bool = False) -> Check:
    """A value that can be read; `read` raises ValueError or returns something false when it can not."""

    def check(value: str, platform: Platform, find: Find) -> str:
        if empty and not value:
            return ""
        try:
            return "" if read(value) else otherwise
        except ValueError:
            return otherwise

    return check


def _network(value: str) -> bool:
    return bool(ipaddress.ip_network(value, strict=False))


def _address_or_network(value: str) -> bool:
    return bool(ipaddress.ip_network(value, strict=False) if "/" in value else ipaddress.ip_address(value))


def _domain_name(value: str) -> bool:
    labels = value.removesuffix(".").split(".")
    return len(value) <= 255 and all(map(_LABEL.match, labels)) and not (len(labels) > 1 and labels[-1].isdecimal())


def _moment(value: str) -> bool:
    datetime.datetime.fromisoformat(value)
    return True


def _future(value: str) -> bool:
    moment = datetime.datetime.fromisoformat(value.strip())
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
    return moment > datetime.datetime.now(datetime.UTC)


def _zone(value: str) -> bool:
    known = zoneinfo.available_timezones()
    return value in known or not known  # a host may have no list of them


_DNS = "'{value}' not in valid format."
CHECKS: Mapping[str, Check] = {
    "nova.flavor": _flavor,
    "glance.image": _image,
    "nova.keypair": _anything,
    "nova.server": _of(*_SERVERS, called="Server"),
    "nova.host": _nothing("Host"),
    "cinder.volume": _volume,
    "cinder.snapshot": _snapshot,
    "cinder.vtype": _anything,
    "cinder.backup": _nothing("Volume backup"),
    "cinder.qos_specs": _nothing("QoSSpecs"),
    "neutron.network": _own("net", "network"),
    "neutron.subnet": _own("subnet", "subnet"),
    "neutron.router": _of("OS::Neutron::Router", called="router"),
    "neutron.port": _of("OS::Neutron::Port", called="port"),
    "neutron.security_group": _anything,
    "neutron.subnetpool": _nothing("subnetpool"),
    "neutron.address_scope": _nothing("address_scope"),
    "neutron.qos_policy": _nothing("policy"),
    "neutron.segment": _nothing("segment"),
    "octavia.loadbalancer": _of("OS::Octavia::LoadBalancer", called="load balancer"),
    "octavia.listener": _of("OS::Octavia::Listener", called="listener"),
    "octavia.pool": _of("OS::Octavia::Pool", called="pool"),
    "ip_addr": _form(ipaddress.ip_address, "Invalid IP address"),
    "mac_addr": _form(_MAC.match, "Invalid MAC address."),
    "net_cidr": _form(_network, "Invalid net cidr {value}"),
    "ip_or_cidr": _form(_address_or_network, "{value} is not a valid IP or CIDR"),
    "dns_name": _form(_domain_name, _DNS),
    "rel_dns_name": _form(lambda value: not value.endswith(".") and _domain_name(value), _DNS, empty=True),
    "dns_domain": _form(lambda value: value.endswith(".") and _domain_name(value), _DNS, empty=True),
    "iso_8601": _form(_moment, "'{value}' is not a moment as ISO 8601 writes it"),
    "expiration": _form(_future, "Expiration {value} is invalid", empty=True),
    "timezone": _form(_zone, "Invalid timezone: {value}", empty=True),
    "cron_expression": _form(
        lambda value: len(value.split()) in (5, 6) and all(map(_CRON.match, value.split())),
        "Invalid CRON expression: {value}",
        empty=True,
    ),
}
"""By their names; what a resource's own property says of such a value is said by its type."""
_ABSENT: Mapping[str, str] = {
    "barbican": "secret store (Barbican)",
    "blazar": "reservation service (Blazar)",
    "designate": "name service (Designate)",
    "ironic": "bare metal service (Ironic)",
    "keystone": "identity service (Keystone) to ask",
    "magnum": "container service (Magnum)",
    "manila": "share service (Manila)",
    "mistral": "workflow service (Mistral)",
    "monasca": "monitoring service (Monasca)",
    "sahara": "data processing (Sahara)",
    "senlin": "clustering service (Senlin)",
    "trove": "database service (Trove)",
    "zaqar": "message queue (Zaqar)",
}
