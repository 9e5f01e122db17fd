"""The OpenStack driver: guests are Nova servers, through openstacksdk.

Owns what is named with `OpenStackSettings.prefix` in the project: servers, their key pairs, one server group a
deployable, images. What it must remember is in the servers' metadata. Concurrency: calls for one guest never overlap
(the interface's rule); creations are bounded by `parallel`; whoever waits for a state shares one list call with all
others.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial

import msgspec

from pcloud.environment.infrastructure import (
    ExecResult,
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    Image,
    InfrastructureError,
    InfrastructureUnavailable,
    Vitality,
)
from pcloud.infrastructure import openstack_making as making
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.openstack_addresses import OpenStackAddresses
from pcloud.infrastructure.openstack_changes import OpenStackChanges
from pcloud.infrastructure.openstack_images import ensure_image, remove_unused
from pcloud.infrastructure.openstack_power import Power
from pcloud.infrastructure.openstack_servers import Server, Servers
from pcloud.infrastructure.openstack_session import Clash, Missing, OpenStackSession
from pcloud.infrastructure.openstack_settings import OpenStackSettings
from pcloud.infrastructure.preparing import prepared

GUEST_ID = re.compile(r"[a-z0-9_][a-z0-9._-]{0,126}")
_CONSOLE = 64 * 1024
_SILENT = 2
"""Lists that fail in succession before the cloud counts as away: one request may get lost."""


class OpenStackInfrastructure:
    """Guests as Nova servers. Implements `pcloud.environment.infrastructure.Infrastructure`."""

    name = "openstack"
    capabilities = CAPABILITIES["openstack"]

    def __init__(self, settings: OpenStackSettings, prepare: Callable[[Image], Awaitable[Image]] | None = None) -> None:
        """`prepare` makes of an image without a disk one that has one; without it such an image is refused."""
        self._settings = settings
        self._prepare = prepare
        self._session = OpenStackSession(settings)
        self._servers = Servers(self._session, settings.prefix)
        self._power = Power(self._session, self._servers, settings)
        self.addresses = OpenStackAddresses(self._session, settings)
        self.changes = OpenStackChanges(self._session, self._servers, settings, self.addresses)
        self._slots = asyncio.Semaphore(settings.parallel)
        self._images: dict[str, asyncio.Lock] = {}
        self._groups: dict[str, asyncio.Lock] = {}
        self._zones: tuple[str, ...] = ()
        self._making: Counter[str] = Counter()
        """Digests of images that servers are being made from just now."""

    # --- the interface

    async def places(self) -> Sequence[str]:
        """Return the names of the availability zones that are available, asked for once. Whether the cloud answers is told
        by a list of servers, which is shared with whoever asks at the same time: after an outage every deployable's engine
        does."""
        if not self._zones:
            self._zones = await self._session.call(partial(making.zones, wanted=self._settings.zones))
        else:
            await self._servers.all()
        return self._zones

    async def list_guests(self) -> Sequence[GuestInfo]:
        """Return all guests of ours, from one call."""
        found = await self._servers.all()
        return [servers[0].info(name[len(self._settings.prefix) :]) for name, servers in found.items()]

    async def inspect(self, guest_id: str) -> GuestInfo:
        """Return what Nova says of one guest; shares its call with whoever asks at the same time."""
        server = await self._servers.one(self._name(guest_id))
        return server.info(guest_id) if server else GuestInfo(guest_id=guest_id, state=GuestState.ABSENT)

    async def start(self, spec: GuestSpec) -> GuestInfo:
        """Make the server, or start, rebuild (another digest) or replace (ERROR, or off in another zone) the one there is;
        returns when it is ACTIVE and, unless it has no network, has an address."""
        name = self._name(spec.guest_id)
        async with self._slots:
            server = await self._only(name)
            anew = server is None or server.status == "ERROR" or _elsewhere(server, spec.place)
            if anew or server is None or server.metadata.get("pcloud_digest") != spec.digest:
                spec = msgspec.structs.replace(spec, image=await prepared(spec.image, self._prepare))
            if anew and server is not None:
                await self._power.delete(server)
                server = None
            if server is None:
                await self._create_or_adopt(spec, name)
            elif server.metadata.get("pcloud_digest") != spec.digest:
                await self._rebuild(server, spec)
            elif server.state is not GuestState.RUNNING:
                await self._power.on(server)
            await self._power.active(name, timeout=spec.start_timeout, addressed=self._settings.network != "none")
            server = await self._only(
                name
            )  # the answer to an earlier request may have been lost, and come to something
        if server is None:
            raise InfrastructureError(f"the server of {spec.guest_id} vanished while it was started")
        if spec.addresses:
            await self.addresses.settle(server.id, spec.addresses, move=False)
        return server.info(spec.guest_id)

    async def stop(self, guest_id: str, *, timeout: float) -> None:
        """Shut the server down. Nova powers it off itself when the guest does not obey (`shutdown_timeout` there, 60 s by
        default); after `timeout` and that, the server counts as not stoppable and is an error."""
        await self._power.off(self._name(guest_id), timeout + self._settings.delete_timeout)

    async def destroy(self, guest_id: str) -> None:
        """Power the server off and return when Nova has seen it off. One that can not be powered off (ERROR, a broken
        host) is deleted, and seen to be gone: its disk goes with it, which is better than two of it running."""
        try:
            await self._power.off(self._name(guest_id), self._settings.delete_timeout)
        except InfrastructureUnavailable:
            raise
        except InfrastructureError:
            for server in (await self._servers.all()).get(self._name(guest_id), []):
                await self._power.delete(server)

    async def delete(self, guest_id: str) -> None:
        """Delete the server and what belongs to it, see it gone. With a deployable's last guest its server group goes, and
        every image that no server of ours is made from any longer."""
        name = self._name(guest_id)
        for server in (await self._servers.all()).get(name, []):
            await self._power.delete(server)
        await self._session.call(partial(making.delete_keypair, name=name))
        await self.changes.remove(guest_id)
        deployable = guest_id.partition(".")[0]
        async with self._groups.setdefault(deployable, asyncio.Lock()):
            own = f"{self._settings.prefix}{deployable}."
            left = await self._servers.all()
            if any(other.startswith(own) for other in left):
                return
            await self._session.call(partial(making.delete_groups, name=own[:-1]))
            if not self._settings.keep_images:
                used = {each.metadata.get("pcloud_image", "") for servers in left.values() for each in servers}
                used.update(self._making)
                await self._session.call(partial(remove_unused, prefix=self._settings.prefix, used=used))

    async def check(self, guest_id: str, *, timeout: float) -> Vitality:
        """Return what the server's state says: paused and suspended servers do not execute. ACTIVE proves nothing."""
        try:
            async with asyncio.timeout(timeout):
                server = await self._servers.one(self._name(guest_id))
        except (InfrastructureError, TimeoutError):
            return Vitality.UNKNOWN
        return server.vitality if server else Vitality.GONE

    async def watch(self) -> AsyncIterator[GuestEvent]:
        """Yield what differs between two lists of all guests, whoever asked for them. While the API is away nothing is
        told of guests: InfrastructureUnavailable. A later watch goes on from what was known then."""
        loop, silent = asyncio.get_running_loop(), 0
        while True:
            due = loop.time() + self._settings.poll
            try:
                await self._servers.all()
                silent = 0
            except InfrastructureError as error:
                silent += 1
                if silent >= _SILENT:
                    raise InfrastructureUnavailable(str(error)) from error
            while (left := due - loop.time()) > 0:
                for change in await self._servers.changes(left):
                    guest_id = change.name[len(self._settings.prefix) :]
                    yield GuestEvent(guest_id=guest_id, state=change.state, reason=change.reason)

    async def execute(
        self, guest_id: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Nova has no way into a guest: always a permanent InfrastructureError."""
        raise InfrastructureError("OpenStack can not run commands in guests; use ssh", permanent=True)

    async def console(self, guest_id: str) -> bytes:
        """Return the newest part of the guest's console log."""
        server = await self._servers.one(self._name(guest_id))
        if server is None:
            return b""
        identity = server.id
        try:
            answer = await self._session.call(lambda c: c.compute.get_server_console_output(identity))
        except (Missing, Clash):
            return b""
        return str((answer or {}).get("output") or "").encode()[-_CONSOLE:]

    async def reboot(self, guest_id: str) -> None:
        """Reset the server (hard reboot), and return when it is ACTIVE again."""
        await self._power.reboot(self._name(guest_id))

    async def close(self) -> None:
        """End the threads; guests go on running."""
        self._session.close()

    # --- making

    async def _only(self, name: str) -> Server | None:
        """Return the one server of a name; a second one, made by a request that was sent twice, is deleted."""
        servers = (await self._servers.all()).get(name, [])
        for extra in servers[1:]:
            await self._power.delete(extra)
        return servers[0] if servers else None

    async def _create_or_adopt(self, spec: GuestSpec, name: str) -> None:
        """Make the server. When the answer is lost it may exist all the same: then it is the one."""
        try:
            await self._create(spec, name)
        except InfrastructureUnavailable:
            if await self._only(name) is None:
                raise

    async def _create(self, spec: GuestSpec, name: str) -> None:
        hosts = await self._hosts(spec)
        group = await self._group(spec.deployable)
        with self._uses(spec):
            for last in (False, True):
                image = await self._image(spec)
                create = partial(
                    making.create_server, settings=self._settings, spec=spec, hosts=hosts, image=image, group=group
                )
                try:
                    await self._session.call(create)
                    await self._servers.all()  # from here on its metadata says what it is made from
                    return
                except InfrastructureUnavailable:
                    raise
                except InfrastructureError:
                    # Another engine process may have removed the image with the last server that it knew of.
                    if last or await self._image_exists(image):
                        raise

    @contextlib.contextmanager
    def _uses(self, spec: GuestSpec) -> Iterator[None]:
        """Keep the image of a server that is being made."""
        self._making[spec.image.digest] += 1
        try:
            yield
        finally:
            self._making[spec.image.digest] -= 1
            self._making += Counter()  # forgets what is zero

    async def _image_exists(self, identity: str) -> bool:
        return await self._session.call(lambda c: c.image.find_image(identity)) is not None

    async def _rebuild(self, server: Server, spec: GuestSpec) -> None:
        """Make an existing server anew from another image; it keeps its address."""
        hosts = await self._hosts(spec)
        try:
            with self._uses(spec):
                image = await self._image(spec)
                rebuild = partial(making.rebuild_server, identity=server.id, spec=spec, hosts=hosts, image=image)
                await self._session.call(rebuild)
        except Clash:  # not in a state that allows it
            await self._power.delete(server)
            await self._create_or_adopt(spec, server.name)
            return
        # One that was stopped is stopped after its rebuild, too; in between it is ACTIVE, for a moment with no task.
        off = server.status == "SHUTOFF"

        def over(now: Server | None) -> bool:
            if now is None:
                return True
            settled = now.status in ("SHUTOFF", "ERROR") if off else now.status not in ("REBUILD", "BUILD")
            return settled and not now.task

        rebuilt = await self._power.until(server.name, over, 300.0, "rebuild")
        if rebuilt is not None and rebuilt.status == "SHUTOFF":
            await self._power.on(rebuilt)

    async def _image(self, spec: GuestSpec) -> str:
        async with self._images.setdefault(spec.image.digest, asyncio.Lock()):
            return await self._session.call(lambda c: ensure_image(c, spec.image, self._settings.prefix))

    async def _group(self, deployable: str) -> str:
        if not self._settings.anti_affinity:
            return ""
        name = f"{self._settings.prefix}{deployable}"
        async with self._groups.setdefault(deployable, asyncio.Lock()):
            return await self._session.call(lambda c: making.ensure_group(c, name, self._settings.anti_affinity))

    async def _hosts(self, spec: GuestSpec) -> dict[str, str]:
        """Addresses of the deployable's other guests, by the last part of their id."""
        own = f"{self._settings.prefix}{spec.deployable}."
        found = await self._servers.all()
        return {
            name[len(own) :]: servers[0].address
            for name, servers in found.items()
            if name.startswith(own) and name != self._name(spec.guest_id) and servers[0].address
        }

    # --- helpers

    def _name(self, guest_id: str) -> str:
        if not GUEST_ID.fullmatch(guest_id):
            raise InfrastructureError(f"{guest_id!r} is no guest's id", permanent=True)
        return self._settings.prefix + guest_id


def _elsewhere(server: Server, place: str) -> bool:
    """Tell whether a server that is off is in another zone than the one asked for: Nova starts a server where its disk is,
    so that it can only be made anew."""
    return server.state is GuestState.STOPPED and bool(place and server.zone) and server.zone != place
