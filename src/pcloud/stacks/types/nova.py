"""OS::Nova::Server and OS::Nova::KeyPair: a guest, and a public key for guests' root."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, listing, mapping, text
from pcloud.stacks.types import disks
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services, known
from pcloud.stacks.types.networks import of_stack
from pcloud.stacks.types.servers import NOT_BOTH, Part, ServerType
from pcloud.stacks.types.software import boot_data

_NOTHING = OnChange.NOTHING
_KEY = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n]*)?\n?")


class KeyPair(ResourceType):
    """A public key under a name; makes the pair when none is given."""

    names = ("OS::Nova::KeyPair",)
    attributes = frozenset({"public_key", "private_key"})
    schema: ClassVar[Schema] = {
        "name": text(required=True),
        "public_key": text(),
        "save_private_key": boolean(default=False),
        "type": text(allowed=("ssh",)),
        "user": text(refused="there are no other users' keys"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """The key must be one, on one line."""
        key = properties.get("public_key")
        if not known(key) or _KEY.fullmatch(str(key)):
            return []
        return [PropertyProblem(code="BAD_PROPERTY", message="this is no public key of OpenSSH", path=("public_key",))]

    async def create(self, context: Context) -> None:
        """Note the key; make one where none is given."""
        record, given = context.record, context.properties
        other = context.services.find(str(given["name"]))
        if other is not None and other is not record and other.type in self.names:
            raise ResourceFailed(f"there is a key pair {given['name']} already")
        record.physical = str(given["name"])
        public, private = given.get("public_key"), ""
        if public is None and record.attributes.get("public_key"):
            return  # made before a crash
        if public is None:
            made = await asyncio.to_thread(ed25519.Ed25519PrivateKey.generate)
            public = (
                made.public_key()
                .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
                .decode()
            )
            private = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            ).decode()
        record.attributes = {
            "public_key": str(public).strip(),
            "private_key": private if given["save_private_key"] else "",
        }


class NovaServer(ServerType):
    """A guest."""

    names = ("OS::Nova::Server",)
    image_property = "image"
    size_property = "flavor"
    group_properties = frozenset({"security_groups"})
    disk_properties = ("block_device_mapping", "block_device_mapping_v2")
    attributes = frozenset(
        {"accessIPv4", "accessIPv6", "addresses", "first_address", "instance_name", "name", "networks", "console_urls"}
    )
    schema: ClassVar[Schema] = {
        "name": text(on_change=_NOTHING),
        "image": text(required=True),
        "flavor": text(required=True, on_change=OnChange.UPDATE),
        "flavor_update_policy": text(on_change=_NOTHING, inert="a size is always changed in place"),
        "image_update_policy": text(on_change=_NOTHING, inert="another image is always another guest"),
        "key_name": text(),
        "user_data": anything(default=""),
        "user_data_format": text(default="HEAT_CFNTOOLS", allowed=("HEAT_CFNTOOLS", "RAW", "SOFTWARE_CONFIG")),
        "user_data_update_policy": text(on_change=_NOTHING, inert="other user data is always another guest"),
        "software_config_transport": text(on_change=_NOTHING, inert="deployments are carried out by the engine"),
        "deployment_swift_data": anything(on_change=_NOTHING, inert="deployments are carried out by the engine"),
        "metadata": mapping(on_change=_NOTHING),
        "networks": listing(),
        "security_groups": listing(on_change=OnChange.UPDATE),
        "config_drive": boolean(inert="what a configuration drive holds is in the guest already"),
        "availability_zone": text(inert="there is one place"),
        "scheduler_hints": mapping(inert="there is one host"),
        "tags": listing(on_change=_NOTHING),
        "diskConfig": text(inert="a guest's own disk is what its infrastructure makes it"),
        "admin_pass": text(secret=True, on_change=OnChange.UPDATE),
        "personality": mapping(refused="write files by user data"),
        "block_device_mapping": listing(fields=disks.NOVA_MAPPING),
        "block_device_mapping_v2": listing(fields=disks.NOVA_MAPPING_V2),
        "reservation_id": text(refused="there are no reservations"),
    }

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """Besides image and size: one network, the guests' own."""
        found = super().check_on(properties, platform)
        networks = properties.get("networks")
        given = [each for each in (networks if isinstance(networks, list) else ()) if isinstance(each, Mapping)]
        if len({_inside(each) is not None for each in given if each.get("port") is None}) > 1:
            found.append(PropertyProblem(code="REFUSED", message=NOT_BOTH, path=("networks",)))
        asked = self.fixed(properties)[1]
        for index, network in enumerate(networks if isinstance(networks, list) else ()):
            for key in ("subnet", "floating_ip", "fixed_ip") if isinstance(network, Mapping) else ():
                path = ("networks", index, key)
                inside = _inside(network) is not None and key != "floating_ip"
                if network.get(key) is None or path == asked or inside:
                    continue
                why = "guests share one network that gives the addresses"
                if key == "fixed_ip":
                    why = "a server has one address of its own, and a port has that of the port"
                message = f"'{key}' can not be honoured: {why}"
                found.append(PropertyProblem(code="REFUSED", message=message, path=path))
        return found

    def fixed(self, properties: Mapping[str, Any]) -> tuple[Any, tuple[str | int, ...]]:
        """The first of its networks that asks for one."""
        networks = properties.get("networks")
        for index, network in enumerate(networks if isinstance(networks, list) else ()):
            if not isinstance(network, Mapping) or network.get("port") is not None or _inside(network) is not None:
                continue
            if network.get("fixed_ip") is not None:
                return network["fixed_ip"], ("networks", index, "fixed_ip")
        return None, ()

    def instance(self, context: Context) -> str:
        """A UUID."""
        return context.token

    def user_data(self, context: Context) -> str:
        """As it stands, or a configuration's text."""
        return boot_data(context.services, context.properties.get("user_data") or "")

    def parts(self, context: Context) -> list[Part]:
        """`networks`."""
        found = []
        for network in context.properties.get("networks") or []:
            given = network if isinstance(network, Mapping) else {}
            port, fixed = str(given.get("port") or ""), str(given.get("fixed_ip") or "")
            found.append(Part(port=port, inside=str(_inside(given) or ""), fixed=fixed))
        return found

    def ports(self, context: Context) -> list[ResourceRecord]:
        """Those of its networks."""
        named = [each.get("port") for each in context.properties.get("networks") or [] if isinstance(each, Mapping)]
        found = [context.services.find(str(name)) for name in named if name]
        return [record for record in found if record is not None and {"address", "interface"} & record.data.keys()]

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """A password is one line; disks are none that it starts from."""
        found = disks.nova_problems(properties)
        secret = properties.get("admin_pass")
        if not known(secret) or str(secret).isprintable():
            return found
        return [
            *found,
            PropertyProblem(code="BAD_PROPERTY", message="'admin_pass' must be printable", path=("admin_pass",)),
        ]

    async def create(self, context: Context) -> None:
        """Make the guest, and give its root a password where one is asked for (for its console: sshd takes keys only)."""
        await super().create(context)
        if context.properties.get("admin_pass"):
            await self._password(context)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Another password takes effect at once."""
        await super().update(context, old, changed)
        if "admin_pass" in changed and context.properties.get("admin_pass"):
            await self._password(context)

    async def _password(self, context: Context) -> None:
        where = context.services.place_of(context.record)
        assert where is not None
        line = f"root:{context.properties['admin_pass']}\n".encode()
        done = await context.services.platform.execute(*where, ["chpasswd"], stdin=line)
        if done.returncode:
            raise ResourceFailed("the guest does not take the password")

    def disks(self, context: Context) -> list[disks.Disk]:
        """In Nova's words."""
        return disks.nova_disks(context.properties)

    def groups(self, context: Context) -> list[Any]:
        """Its own and its ports'."""
        own = list(context.properties.get("security_groups") or [])
        return own + [each for port in self.ports(context) for each in port.attributes.get("security_groups", ())]

    def keys(self, context: Context) -> list[str]:
        """The key pair's public key, where a stack has it."""
        name = context.properties.get("key_name")
        found = context.services.find(str(name)) if name else None
        if found is None or found.type not in KeyPair.names:
            return []
        return [str(found.attributes.get("public_key", ""))]

    def addresses(self, context: Context, address: str, place: str) -> dict[str, Any]:
        """Nova's names."""
        _, assembly = context.record.data["deployable"], context.record.data["assembly"]
        if interfaces := context.record.data.get("interfaces"):
            return self._elsewhere(context, interfaces)
        known_by = {
            str(port.data["address"]).partition("/")[0]: port.physical
            for port in self.ports(context)
            if "address" in port.data
        }
        known_by[address] = context.record.physical  # behind those that the template asked for
        shown = [{"addr": each, "version": 4, "port": owner} for each, owner in known_by.items()]
        return {
            "accessIPv4": address,
            "accessIPv6": "",
            "first_address": next(iter(known_by)),
            "addresses": {"guests": shown},
            "networks": {"guests": list(known_by)},
            "name": context.properties.get("name") or context.physical_name(),
            "instance_name": assembly,
            "console_urls": {},
        }

    def _elsewhere(self, context: Context, interfaces: list[dict[str, str]]) -> dict[str, Any]:
        shown: dict[str, list[dict[str, Any]]] = {}
        for one in interfaces:
            plain = one["address"].partition("/")[0]
            net = context.services.find(one["network"])
            for key in {one["network"], str((net.attributes if net is not None else {}).get("name", one["network"]))}:
                shown.setdefault(key, []).append({"addr": plain, "version": 4, "port": one["owner"]})
        first = interfaces[0]["address"].partition("/")[0]
        return {
            "accessIPv4": first,
            "accessIPv6": "",
            "first_address": first,
            "addresses": shown,
            "networks": {key: [one["addr"] for one in each] for key, each in shown.items()},
            "name": context.properties.get("name") or context.physical_name(),
            "instance_name": context.record.data["assembly"],
            "console_urls": {},
        }

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """Addresses by network: whatever a network is called, guests have one, but for those that stacks made."""
        shown = record.attributes.get(name, {})
        if name in ("networks", "addresses") and path and "guests" in shown and str(path[0]) not in shown:
            path = ["guests", *path[1:]]
        return super().attribute(record, name, path, services)


def _inside(network: Mapping[str, Any]) -> Any:
    """Return the network or subnet of a stack that one of a server's networks is; None where it is the guests' own."""
    named = (network.get(key) for key in ("subnet", "network", "uuid"))
    return next((each for each in named if each is not None and of_stack(each)), None)


TYPES: tuple[type[ResourceType], ...] = (KeyPair, NovaServer)
