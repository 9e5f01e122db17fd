"""`pcloud-cped`: the daemon. Order of start: home, settings, lease, store, engines (adopted within milliseconds), then HTTP.

A daemon that does not own its store stands by; one that loses it becomes a fresh run that does.

SIGTERM and SIGINT stop it in order; engine processes and guests go on. SIGHUP reads the settings again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import msgspec

from pcloud.cpe.engine import ENGINE_COMMAND, CloudPolicyEngine
from pcloud.cpe.home import Home
from pcloud.cpe.notify import notify, under_service_manager, watchdog
from pcloud.cpe.ownership import Ownership, end_engines, lease_of, start_anew, started_anew
from pcloud.cpe.ports import Documents, Images
from pcloud.cpe.settings import DaemonSettings, load, split_address
from pcloud.cpe.sinks import SinkManager
from pcloud.cpe.tokens import TokenBook
from pcloud.dpe.deadline import Deadline
from pcloud.model.errors import PcloudError, Problem, Unavailable
from pcloud.store.database import sqlite_url
from pcloud.store.lease import Grant
from pcloud.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)

STAY_DOWN = 85
"""Exit status after `pcloud down` under a service manager: the unit takes it for a success, and does not start it again.
Any other end, a stray signal's too, is one that the unit mends."""


class Daemon:
    """One run of the daemon."""

    def __init__(
        self,
        home: Home,
        read_settings: Callable[[], DaemonSettings],
        *,
        documents: Callable[[Home], Documents],
        images: Callable[[Home, DaemonSettings], Images],
        command: Sequence[str] = ENGINE_COMMAND,
    ) -> None:
        self._home = home
        self._read_settings = read_settings
        self._documents = documents
        self._images = images
        self._command = command
        self.status = 0
        """The exit status when it has run: STAY_DOWN where a service manager shall not start it again."""
        self._stop = asyncio.Event()
        self._engines = False
        self._stopping: asyncio.Task[None] | None = None
        self._engine: CloudPolicyEngine | None = None
        self._sinks: SinkManager | None = None

    async def run(self, ready: Callable[[str], None]) -> None:
        """Run until stopped; `ready` is told the URL once everything answers, and also where it stands by."""
        anew = started_anew()
        self._home.prepare()
        self._home.lock()
        try:
            settings = self._read_settings()
            url = settings.store.url or sqlite_url(self._home.database)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            beside = asyncio.create_task(watchdog())
            lease = lease_of(self._home, url, settings)
            if lease.length:
                import_module("pcloud.api.serving")  # seconds on a busy machine, in which no lease could be renewed
            try:
                ownership = Ownership(lease, self._home)
                grant = await self._own(ownership, settings, ready, anew=bool(anew))
                if grant is not None:
                    await self._as_owner(ownership, grant, settings, url, ready)
            finally:
                beside.cancel()
                await asyncio.gather(beside, return_exceptions=True)
                await lease.close()
        finally:
            self._home.unlock()

    async def _own(
        self, ownership: Ownership, settings: DaemonSettings, ready: Callable[[str], None], *, anew: bool
    ) -> Grant | None:
        """Become the store's owner, standing by for as long as another is; None when stopped meanwhile."""
        try:
            grant = await ownership.claim()
        except PcloudError as error:
            if not anew:
                raise  # whoever starts it is told at once
            grant, ownership.trouble = None, error.problems[0].message
        if grant is not None:
            return grant
        standby = import_module("pcloud.api.standby")
        server = await standby.start(self._home.path, settings.api, ownership.standing_by)
        waiting = asyncio.create_task(ownership.stand_by(), name="standby")
        stopping = asyncio.create_task(self._stop.wait())
        try:
            notify("READY=1\nSTATUS=stands by: another daemon owns the store")
            ready(server.url)
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            return None
        finally:
            for task in (waiting, stopping):
                task.cancel()
            await asyncio.gather(waiting, stopping, return_exceptions=True)
            await server.close()

    async def _as_owner(
        self, ownership: Ownership, grant: Grant, settings: DaemonSettings, url: str, ready: Callable[[str], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        deadline = Deadline()
        # Not through the loop: what waits there to be done must not be done before it.
        signal.signal(signal.SIGALRM, lambda *_: start_anew(self._home, "the lease could not be renewed in time"))
        deadline.move(grant.until)

        def lost() -> None:
            # A moment, so that whoever asked gets the answer; nothing more is written, and the engines end first.
            end_engines(self._home, wait=False)
            loop.call_later(0.05, start_anew, self._home, "another daemon owns the store")

        def renewed(grant: Grant) -> None:
            deadline.move(grant.until)
            if self._engine is not None:
                self._engine.renewed(grant)

        async def keep() -> None:
            await ownership.keep(grant, renewed)
            start_anew(self._home, "another daemon owns the store")

        keeping = asyncio.create_task(keep(), name="lease")
        try:
            fence = ownership.fence(lost)
            store = await Store.open(url, keep_decisions=settings.store.keep_decisions, fence=fence)
            try:
                await self._run(settings, store, ownership, ready)
            finally:
                await store.close()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            # Engine processes that go on act for this daemon until the lease ends, so it must not be given away.
            if self._engines:
                await ownership.release()
            deadline.move(math.inf)

    async def _run(
        self, settings: DaemonSettings, store: Store, ownership: Ownership, ready: Callable[[str], None]
    ) -> None:
        token = ownership.grant.token if ownership.grant is not None else 0
        documents, images = self._documents(self._home), self._images(self._home, settings)
        engine = CloudPolicyEngine(
            self._home,
            settings,
            store,
            documents=documents,
            images=images,
            command=self._command,
            grant=ownership.grant,
            who=ownership.who,
        )
        self._engine = engine
        self._home.database.touch(mode=0o600)
        with contextlib.suppress(OSError):
            self._home.database.chmod(0o600)
        tokens = TokenBook(store.tokens)
        await tokens.load(self._home)
        await engine.start()
        if token:
            engine.emit("daemon.owner", f"this daemon owns the store (token {token})", token=token)
        tasks: list[asyncio.Task[None]] = []
        served = False
        try:
            # HTTP is imported after the engines are adopted: it is most of what there is to import. By name, because
            # this is the one place where the house is put together from below.
            serving = import_module("pcloud.api.serving")
            servers, metrics = await serving.start(engine, tokens, self.shutdown)
            self._sinks = SinkManager(engine)
            await self._sinks.start()
            tasks.append(asyncio.create_task(metrics))
            notify("READY=1\nSTATUS=owns the store" if token else "READY=1")
            ready(servers[0].url)
            served = True
            await self._stop.wait()
            notify("STOPPING=1")
            engine.broadcaster.close()
            for server in servers:
                await server.close()
        finally:
            if self._sinks is not None:
                await self._sinks.close()
            # A start that was refused leaves no processes behind, unless they have something to look after.
            await engine.close(engines=self._engines or not (served or engine.desired.rows))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def shutdown(self, engines: bool, guests: bool) -> None:
        """Stop from within: the daemon, its engine processes, and every guest first when asked for."""
        self._engines = engines
        if engines and under_service_manager():
            self.status = STAY_DOWN
        if guests and self._engine is not None:
            self._stopping = asyncio.create_task(self._stop_guests(self._engine))
        else:
            # A moment, so that whoever asked gets the answer.
            asyncio.get_running_loop().call_later(0.05, self._stop.set)

    async def _stop_guests(self, engine: CloudPolicyEngine) -> None:
        try:
            await engine.shutdown_guests()
        except PcloudError as error:
            self.status = 0
            _log.error("the shutdown was given up: %s", error)
            engine.emit("daemon.shutdown", f"the shutdown was given up: {error.problems[0].message}")
        else:
            self._stop.set()

    def _reload(self) -> None:
        """Take over what the settings file says now; a bad one changes nothing."""
        if self._engine is None:
            return
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._engine.reconfigure(self._read_settings())
        except PcloudError as error:
            _log.error("the settings were not reloaded:\n%s", error)
            self._engine.emit("daemon.settings", f"the settings were not reloaded: {error.problems[0]}")
        else:
            self._engine.emit("daemon.settings", "the settings were reloaded")
            self._stopping = asyncio.create_task(self._restart_sinks())
        notify("READY=1")

    async def _restart_sinks(self) -> None:
        if self._sinks is not None:
            await self._sinks.close()
            await self._sinks.start()


def real_documents(home: Home) -> Documents:
    """Return the model's readers and writers, with the templates of this home."""
    from pcloud.cpe.documents import ModelDocuments

    return ModelDocuments(home.path)


def real_images(home: Home, settings: DaemonSettings) -> Images:
    """Return the image store of this home."""
    from pcloud.cpe.imaging import StoreImages
    from pcloud.images.store import DEFAULT_ROOT, ImageStore
    from pcloud.model.templates import load_catalogue

    root = Path(settings.images.folder) if settings.images.folder else DEFAULT_ROOT
    return StoreImages(ImageStore(root), load_catalogue(home.path))


def with_url(settings: DaemonSettings, environment: Mapping[str, str]) -> DaemonSettings:
    """Return the settings with the address of `$PCLOUD_URL`, where that names one, on top."""
    url = urlsplit(environment.get("PCLOUD_URL", ""))
    if not url.hostname:
        return settings
    port = url.port or (443 if url.scheme == "https" else 80)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return with_options(settings, listen=f"{host}:{port}", tls=url.scheme == "https")


def with_options(
    settings: DaemonSettings, *, listen: str = "", tls: bool = False, cert: str = "", key: str = ""
) -> DaemonSettings:
    """Return the settings with what the command line says on top."""
    api = settings.api
    changes: dict[str, object] = {}
    if listen:
        changes["listen"] = listen
    if tls:
        changes["tls"] = True
    if cert:
        changes["tls_certificate"] = cert
    if key:
        changes["tls_key"] = key
    return msgspec.structs.replace(settings, api=msgspec.structs.replace(api, **changes))


def serve(daemon: Daemon, *, ready: Callable[[str], None]) -> int:
    """Run a daemon to its end; return the exit status."""
    try:
        asyncio.run(daemon.run(ready))
    except PcloudError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a daemon that can not start says so where it was started
        return 1
    return daemon.status


def set_up_logging() -> None:
    """Log to standard error; the service manager, or the file it is sent to, keeps it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


@click.command()
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help="State folder [$PCLOUD_HOME, /var/lib/pcloud]."
)
@click.option("--listen", default="", metavar="ADDRESS:PORT", help="Where the API listens [127.0.0.1:8780].")
@click.option(
    "--tls", is_flag=True, help="Serve HTTPS with a self-signed certificate that is made in the state folder."
)
@click.option("--tls-cert", default="", metavar="FILE", help="Serve HTTPS with this certificate chain (PEM).")
@click.option("--tls-key", default="", metavar="FILE", help="The certificate's private key (PEM).")
@click.version_option(package_name="pacemaker-cloud")
def main(home: Path | None, listen: str, tls: bool, tls_cert: str, tls_key: str) -> None:
    """The cloud policy engine: keeps all deployables of this host as they shall be, and serves the API.

    Runs in the foreground. SIGTERM stops it in order; guests and their engine processes go on. SIGHUP reads the
    settings file again.
    """
    set_up_logging()
    place = Home(home) if home is not None else Home.default()

    def read() -> DaemonSettings:
        settings = with_options(
            with_url(load(place.settings), os.environ), listen=listen, tls=tls, cert=tls_cert, key=tls_key
        )
        try:
            split_address(settings.api.listen)
        except ValueError as error:
            raise Unavailable(Problem(code="SETTINGS_INVALID", message=str(error), path="api.listen")) from error
        return settings

    daemon = Daemon(place, read, documents=real_documents, images=real_images)
    sys.exit(serve(daemon, ready=lambda url: _log.info("ready at %s; token in %s", url, place.token)))


if __name__ == "__main__":
    main()
