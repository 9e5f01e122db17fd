"""What makes a server's guest out of a JEOS: the packages that its metadata names for its image; user data for itself.

Pure. Packages named in `AWS::CloudFormation::Init` come into the image when it is built, so that guests need no network of
their own and every guest made from it starts at once; cfn-init finds them installed. Sources: cloud-init's documentation
("NoCloud"), heat-cfntools (files below /var/lib/heat-cfntools).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pcloud.model.deployable import Resource, SeedFile
from pcloud.stacks.guests.catalogue import tables, unit_of

INIT = "AWS::CloudFormation::Init"
USER_DATA_SECONDS = 3600.0
_CLOUD = """# Written by pacemaker-cloud: the guest's network, names and keys are given to it.
datasource_list: [NoCloud, None]
network: {config: disabled}
disable_root: false
ssh_deletekeys: false
ssh_genkeytypes: [ed25519]
preserve_hostname: true
manage_etc_hosts: false
apt: {preserve_sources_list: true}
locale: false
output: {all: "| tee -a /var/log/cloud-init-output.log"}
"""
_UNIT = """[Unit]
Description=User data has run
After=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/usr/bin/cloud-init status --wait
# The engine starts these: cfn-init may have enabled them, and two would be their masters after a reboot.
ExecStartPost=-/bin/sh -c "xargs -r systemctl disable < /var/lib/heat-cfntools/managed"
TimeoutStartSec=infinity
"""
USER_DATA_UNIT = "pcloud-user-data"


def configs(metadata: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every config of a resource's cfn-init metadata, whatever config sets say."""
    init = metadata.get(INIT)
    if isinstance(init, Mapping):
        for name, config in init.items():
            if name != "configSets" and isinstance(config, Mapping):
                yield config


def packages_of(metadata: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the package names in cfn-init's metadata by package manager."""
    found: dict[str, list[str]] = {}
    for config in configs(metadata):
        packages = config.get("packages")
        for manager, names in packages.items() if isinstance(packages, Mapping) else ():
            if isinstance(names, Mapping):
                found.setdefault(str(manager), []).extend(str(name) for name in names)
    return found


def services_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return the units of the services that cfn-init's metadata wants to run."""
    found: dict[str, None] = {}
    for config in configs(metadata):
        services = config.get("services")
        for entries in services.values() if isinstance(services, Mapping) else ():
            for name, wish in entries.items() if isinstance(entries, Mapping) else ():
                if isinstance(wish, Mapping) and str(wish.get("ensureRunning", "")).lower() in ("true", "1", "yes"):
                    found[unit_of(str(name))] = None
    return list(found)


def resources(metadata: Mapping[str, Any]) -> tuple[Resource, ...]:
    """Return the services to be kept running; the engine takes them over when the user data has run."""
    units = [unit for unit in services_of(metadata) if unit.replace("-", "").replace("_", "").isalnum()]
    if not units:
        return ()
    first = Resource(
        name="user-data",
        resource_class="systemd",
        type=USER_DATA_UNIT,
        start_timeout=USER_DATA_SECONDS,
        monitor_interval=60.0,
    )
    return (
        first,
        *(
            Resource(name=unit, resource_class="systemd", type=unit, start_timeout=300.0, after=("user-data",))
            for unit in units
        ),
    )


def image_parts(
    metadata: Mapping[str, Any],
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], tuple[tuple[str, ...], ...], dict[str, int]]:
    """Return what an image for this metadata has: packages, files, commands, and modes of files that are not 0644."""
    wanted = packages_of(metadata)
    packages: dict[str, None] = dict.fromkeys(wanted.get("apt", ()))
    files: dict[str, str] = {
        "/etc/cloud/cloud.cfg.d/95-pcloud.cfg": _CLOUD,
        f"/etc/systemd/system/{USER_DATA_UNIT}.service": _UNIT,
        "/usr/local/bin/rpm": _program("rpm"),
        "/usr/local/bin/yum": _program("yum"),
        "/usr/local/share/pcloud/packages": _table(),
    }
    modes = {"/usr/local/bin/rpm": 0o755, "/usr/local/bin/yum": 0o755}
    commands: list[tuple[str, ...]] = [("cfn-create-aws-symlinks",)]
    known = tables().packages
    for name in dict.fromkeys((*wanted.get("yum", ()), *wanted.get("dnf", ()))):
        if (meant := known.get(name)) is not None:
            packages.update(dict.fromkeys(meant.packages))
            files.update({file.path: file.content for file in meant.files})
            modes.update({file.path: file.mode for file in meant.files if file.mode != 0o644})
            commands += [command for command in meant.commands if command not in commands]
    return tuple(packages), tuple(files.items()), tuple(commands), modes


def _program(name: str) -> str:
    return (Path(__file__).parent / "in_guest" / name).read_text()


def _table() -> str:
    """The mapping as the programs in the guest read it: name, then Debian's packages."""
    return "".join(f"{name} {' '.join(meant.packages)}\n" for name, meant in sorted(tables().packages.items()))


def decoded(user_data: str) -> str:
    """Return user data as the guest gets it: EC2's is base64, what is not is taken as it stands."""
    try:
        return base64.b64decode(user_data, validate=True).decode()
    except (binascii.Error, ValueError):
        return user_data


def files(
    *,
    instance: str,
    hostname: str,
    user_data: str,
    metadata: Mapping[str, Any],
    url: str,
    region: str,
    keys: list[str],
    meta: Mapping[str, str],
    managed: bool = True,
) -> tuple[SeedFile, ...]:
    """Return the files that this guest alone gets. `url` is the CloudFormation endpoint as guests reach it; `keys` are
    public keys for its root; `meta` is what the tools in the guest tell with what they measure; `managed` says
    whether the engine runs the services."""
    where = urlsplit(url)
    ours = services_of(metadata) if managed else []
    nova = {"uuid": instance, "meta": dict(meta), "name": hostname, "hostname": hostname}
    boto = (
        "[Boto]\ndebug = 0\nis_secure = 0\nhttps_validate_certificates = 1\n"
        f"cfn_region_name = {region}\ncfn_region_endpoint = {where.hostname or ''}\n"
        f"cloudwatch_region_name = {region}\ncloudwatch_region_endpoint = {where.hostname or ''}\n"
    )
    cloud = {"instance-id": instance, "local-hostname": hostname, "public-keys": keys}
    return (
        SeedFile(path="/var/lib/cloud/seed/nocloud/meta-data", content=json.dumps(cloud) + "\n"),
        SeedFile(path="/var/lib/cloud/seed/nocloud/user-data", content=user_data or "#cloud-config\n{}\n"),
        SeedFile(path="/var/lib/heat-cfntools/cfn-init-data", content=json.dumps(metadata)),
        SeedFile(path="/var/lib/heat-cfntools/cfn-boto-cfg", content=boto),
        # The tools read the port behind the last colon, with at most a slash after it; the path they know.
        SeedFile(path="/var/lib/heat-cfntools/cfn-metadata-server", content=f"{url}/", mode=0o644),
        SeedFile(path="/var/lib/heat-cfntools/cfn-watch-server", content=f"{url}/", mode=0o644),
        SeedFile(path="/var/lib/heat-cfntools/managed", content="\n".join(ours), mode=0o644),
        SeedFile(path="/var/lib/heat-cfntools/nova_meta.json", content=json.dumps(nova), mode=0o644),
    )
