"""AWS::RDS::DBInstance: a guest of ours with a real MariaDB, whose database and user are made at its every start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.model.deployable import Assembly, Resource, SeedFile
from pcloud.stacks.guests import assemblies, drift
from pcloud.stacks.platform import Platform
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, text
from pcloud.stacks.types.base import Context, ResourceType, known

IMAGE = "bookworm"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_NOTHING = OnChange.NOTHING
_DISK = "a guest's disk is the host's"
_NONE = "there is one host"
_AFTER = """[Service]
ExecStartPost=+/bin/sh -c "exec mariadb < /etc/mysql/stack.sql"
"""


class DbInstance(ResourceType):
    """A database."""

    names = ("AWS::RDS::DBInstance",)
    needs = frozenset({"guests", "access"})
    attributes = frozenset({"Endpoint.Address", "Endpoint.Port"})
    schema: ClassVar[Schema] = {
        "Engine": text(required=True, allowed=("MySQL", "mysql", "MariaDB", "mariadb")),
        "MasterUsername": text(required=True),
        "MasterUserPassword": text(required=True, secret=True),
        "DBInstanceClass": text(required=True),
        "DBName": text(),
        "Port": integer(default=3306, minimum=1, maximum=65535),
        "AllocatedStorage": anything(on_change=_NOTHING, inert=_DISK),
        "EngineVersion": text(on_change=_NOTHING, inert="the version is the distribution's"),
        "AvailabilityZone": text(on_change=_NOTHING, inert=_NONE),
        "DBSecurityGroups": listing(on_change=_NOTHING, inert="the database asks for its password everywhere"),
        "VPCSecurityGroups": listing(refused="name no groups: the database asks for its password everywhere"),
        "MultiAZ": boolean(on_change=_NOTHING, inert=_NONE),
        "AutoMinorVersionUpgrade": boolean(on_change=_NOTHING, inert="the version is the distribution's"),
        "BackupRetentionPeriod": integer(allowed=(0,), on_change=_NOTHING),
        "PreferredBackupWindow": text(refused="there are no backups"),
        "PreferredMaintenanceWindow": text(on_change=_NOTHING, inert="there is no maintenance by others"),
        "DBSnapshotIdentifier": text(refused="there are no snapshots"),
        "DBSubnetGroupName": text(refused="guests share one network of the infrastructure"),
        "DBParameterGroupName": text(refused="there are no parameter groups"),
        "LicenseModel": text(on_change=_NOTHING, inert="MariaDB is free software"),
        "Tags": listing(on_change=_NOTHING),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Names are words; they stand in SQL."""
        found = []
        for key in ("MasterUsername", "DBName"):
            value = properties.get(key)
            if known(value) and not _NAME.fullmatch(str(value)):
                message = f"'{key}' must be letters, digits and underlines, a letter first"
                found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=(key,)))
        secret = properties.get("MasterUserPassword")
        if known(secret) and not str(secret).isprintable():
            message = "'MasterUserPassword' must be printable"
            found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=("MasterUserPassword",)))
        return found

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """The class must mean a size."""
        given = properties.get("DBInstanceClass")
        if not known(given) or platform.catalogue.size(str(given).removeprefix("db.")) is not None:
            return []
        message = f"'{given}' is no size that is known here"
        hint = f"known are db. and one of: {', '.join(platform.catalogue.sizes())}"
        return [PropertyProblem(code="UNKNOWN_SIZE", message=message, path=("DBInstanceClass",), hint=hint)]

    async def create(self, context: Context) -> None:
        """Make the guest; it is there when the database runs."""
        _, name = assemblies.place(context)
        given = context.properties
        size = context.services.platform.catalogue.size(str(given["DBInstanceClass"]).removeprefix("db."))
        server = f"[mariadbd]\nbind-address = 0.0.0.0\nport = {given['Port']}\nskip-name-resolve\n"
        wanted = Assembly(
            name=name,
            image=IMAGE,
            packages=("mariadb-server",),
            memory=size.memory if size else 0,
            cpus=size.cpus if size else 0.0,
            resources=(Resource(name="mariadb", resource_class="systemd", type="mariadb", start_timeout=300.0),),
            seed=(
                SeedFile(path="/etc/mysql/stack.sql", content=sql(given)),
                SeedFile(path="/etc/mysql/mariadb.conf.d/90-stack.cnf", content=server, mode=0o644),
                SeedFile(path="/etc/systemd/system/mariadb.service.d/stack.conf", content=_AFTER, mode=0o644),
            ),
        )
        context.record.physical = context.physical_name()
        await assemblies.put(context, wanted)
        status = await assemblies.running(context)
        context.record.attributes = {"Endpoint.Address": status.address, "Endpoint.Port": str(given["Port"])}

    async def delete(self, context: Context) -> None:
        """Remove the guest with its data."""
        await assemblies.remove(context)

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """The guest's state, image, memory and cores; None when there is none any more."""
        size = context.services.platform.catalogue.size(str(context.properties["DBInstanceClass"]).removeprefix("db."))
        memory, cpus = (size.memory, size.cpus) if size is not None else (None, None)
        stored, found = await drift.guest(context)
        return None if stored is None else {**found, **drift.other(stored, IMAGE, memory, cpus)}


def sql(given: Mapping[str, Any]) -> str:
    """Return what makes the user and the database; may run any number of times."""
    secret = str(given["MasterUserPassword"]).replace("\\", "\\\\").replace("'", "''")
    user = f"'{given['MasterUsername']}'@'%'"
    lines = [f"CREATE USER IF NOT EXISTS {user};", f"ALTER USER {user} IDENTIFIED BY '{secret}';"]
    if given.get("DBName"):
        lines.append(f"CREATE DATABASE IF NOT EXISTS `{given['DBName']}` CHARACTER SET utf8mb4;")
    lines.append(f"GRANT ALL PRIVILEGES ON *.* TO {user} WITH GRANT OPTION;")
    return "\n".join(lines) + "\n"


TYPES: tuple[type[ResourceType], ...] = (DbInstance,)
