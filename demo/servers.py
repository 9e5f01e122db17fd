"""The demonstration on OpenStack, against the project of the credentials in the environment (`clouds.yaml` or `OS_*`).

A guest is killed by deleting its server, as somebody else with access to the project would. Where Nova has its FakeDriver
nothing runs inside servers: then only what happens to servers is played. NETWORK and FLAVOR name those to be used.
"""

from __future__ import annotations

import os
import time
from typing import Any

from demo.faults import Fault, Play
from demo.report import console
from demo.stage import NAME, StageError
from pcloud.model.errors import PcloudError

PREFIX = "pcloud-demo-"
MANIFEST = f"""\
deployable: {NAME}
infrastructure: openstack
monitor: none
assemblies:
  mysql:
    image: bookworm
  wordpress:
    image: bookworm
    after: [mysql]
"""


def connect() -> Any:
    """Return a connection to the cloud, as a user's own; StageError says what is missing."""
    try:
        import openstack
        from openstack.exceptions import SDKException
    except ModuleNotFoundError as error:
        raise StageError("openstacksdk is not installed: pip install 'pacemaker-cloud[openstack]'") from error
    try:
        connection = openstack.connect()
        connection.authorize()
    except SDKException as error:
        raise StageError(f"no cloud: set OS_CLOUD or source your openrc first ({error})") from error
    return connection


def look() -> bool:
    """Say which cloud it is; tell whether nothing runs inside its servers."""
    connection = connect()
    console.print(
        f"the cloud at [bold]{connection.auth.get('auth_url')}[/], as {connection.auth.get('username', 'its user')}"
    )
    fake = _is_fake(connection)
    if fake:
        console.print(
            "[yellow]Nova has its FakeDriver here: nothing runs inside its servers. No WordPress then, and no service to "
            "kill: the servers themselves are broken. guest-killed becomes guest-deleted, service-killed and escalation "
            "are left out.[/]"
        )
    return fake


def _is_fake(connection: Any) -> bool:
    from openstack.exceptions import HttpException

    try:
        return any(found.hypervisor_type == "fake" for found in connection.compute.hypervisors(details=True))
    except HttpException:  # only administrators may see hypervisors, and a cloud for users has real ones
        return False


def settings() -> str:
    """Return the daemon's settings."""
    lines = [f'prefix = "{PREFIX}"', "poll = 2.0"]
    lines += [f'{key} = "{os.environ[key.upper()]}"' for key in ("network", "flavor") if os.environ.get(key.upper())]
    return "\n".join(["[infrastructures.openstack]", *lines, ""])


def delete(guest_id: str) -> None:
    """Delete a guest's server behind the engine's back."""
    connection = connect()
    server = connection.compute.find_server(PREFIX + guest_id)
    if server is None:
        raise StageError(f"there is no server {PREFIX}{guest_id}")
    connection.compute.delete_server(server)


class ServersPlay(Play):
    """Faults of servers that nothing runs in."""

    def page(self) -> bool:
        """There is no page."""
        return True

    def processes(self) -> dict[str, str]:
        """Return the servers' ids, which must not change when only our own processes die."""
        connection = connect()
        found = {server.name: server.id for server in connection.compute.servers()}
        return {name: identity for name, identity in found.items() if name.startswith(PREFIX)}

    def guest_killed(self) -> Fault:
        """The wordpress guest's server deleted behind our back."""
        fault = Fault("guest-deleted", "the wordpress guest's server deleted behind our back")
        return self._make(fault, lambda: delete(f"{NAME}.wordpress"), "wordpress")

    def guest_broken(self) -> Fault:
        """The mysql guest's server put into ERROR."""
        connection = connect()
        server = connection.compute.find_server(f"{PREFIX}{NAME}.mysql")
        fault = Fault("guest-broken", "the mysql guest's server put into ERROR")
        self._make(fault, lambda: connection.compute.reset_server_state(server, "error"), "mysql")
        if connection.compute.find_server(server.id) is not None:
            raise StageError("the broken server was not removed before its replacement started")
        fault.notes.append("the broken server was seen to be gone before its replacement started")
        return fault

    def _found_running(self, cursor: str) -> None:
        """Guests that are found running change nothing, so nothing is told of them: their status says it."""
        deadline = time.time() + 60
        while not self.running():
            if time.time() > deadline:
                raise StageError("the guests were not found again")
            time.sleep(0.1)

    def running(self) -> bool:
        """Tell whether all of the deployable runs, by an engine that is there."""
        try:
            status = self.client.status(NAME)
        except PcloudError:
            return False
        return status.state.value == "running" and bool(self.stage.engine_pids())
