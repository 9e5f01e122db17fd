"""Guests with full systemd and Debian's own pacemaker-remoted, 2.1.5 and 3.0.0: OCF, systemd and LSB resources through our
transport; with 3.0.0 also over TLS with X.509 certificates."""

import asyncio
import contextlib

import pytest

from pcloud.environment.transport import Operation, TransportError
from tests.certificates import authority, credentials
from tests.guests import PacemakerGuest, put_services
from tests.transport.client import connected

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


class WithServices(PacemakerGuest):
    def prepare(self, upper):
        put_services(upper)


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def guest(request, tmp_path_factory):
    made = WithServices(tmp_path_factory.mktemp("guest"), request.param)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("kind", "agent", "kill"),
    [
        ("ocf", "Dummy", "rm -f /run/resource-agents/Dummy-r-ocf.state /run/Dummy-r-ocf.state"),
        ("systemd", "thing", "systemctl kill -s KILL thing"),
        ("lsb", "daemon", "kill -9 $(cat /run/daemon.pid)"),
    ],
)
async def test_life_of_a_resource(guest, kind, agent, kill):
    def operation(action: str, interval: float = 0.0) -> Operation:
        provider = "heartbeat" if kind == "ocf" else ""
        values = {"provider": provider, "type": agent, "action": action, "interval": interval, "timeout": 120.0}
        return Operation(resource=f"r-{kind}", resource_class=kind, **values)

    async with connected(guest) as (connection, recorder):
        assert (await connection.execute(operation("monitor"))).rc == 7
        assert (await connection.execute(operation("start"))).rc == 0
        assert (await connection.execute(operation("monitor", 1.0))).rc == 0
        guest.run("sh", "-c", kill)
        await recorder.until(lambda r: r.results)
        assert recorder.results[0].rc == 7, recorder.results
        assert recorder.results[0].signal == "interval"
        await connection.execute(operation("stop"))
        assert (await connection.execute(operation("start"))).rc == 0
        assert (await connection.execute(operation("stop"))).rc == 0
        assert (await connection.execute(operation("monitor"))).rc == 7


async def test_the_daemon_killed_and_services_go_on(guest):
    thing = {"resource": "r-systemd", "resource_class": "systemd", "type": "thing", "timeout": 120.0}
    async with connected(guest) as (connection, recorder):
        assert (await connection.execute(Operation(action="start", **thing))).rc == 0
        guest.run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "pacemaker_remote")
        await recorder.until(lambda r: r.lost)
    async with asyncio.timeout(300), contextlib.AsyncExitStack() as stack:
        while True:  # what connects to a daemon that is on its way out, or in, is reset
            try:
                connection, _ = await stack.enter_async_context(connected(guest))
                break
            except TransportError:
                await asyncio.sleep(0.2)
        assert (await connection.execute(Operation(action="monitor", **thing))).rc == 0
        assert (await connection.execute(Operation(action="stop", **thing))).rc == 0


def test_the_protocol_version_agreed(guest):
    """Debian 12 has 2.1.5, Debian 13 has 3.0.0: both are real peers."""
    version = guest.run("pacemaker-remoted", "--version")
    assert ("Pacemaker 3.0.0" if guest.suite == "trixie" else "Pacemaker 2.1.5") in version


class WithCertificates(WithServices):
    def prepare(self, upper):
        super().prepare(upper)
        target = upper / "etc/pacemaker/tls"
        target.mkdir()
        for name in ("ca.crt", "guest.crt", "guest.key"):
            (target / name).write_bytes((self.folder / "ca" / name).read_bytes())
        settings = upper / "etc/default/pacemaker"
        where = "/etc/pacemaker/tls"
        settings.write_text(
            f"{settings.read_text()}PCMK_ca_file={where}/ca.crt\nPCMK_cert_file={where}/guest.crt\nPCMK_key_file={where}/guest.key\n"
        )


async def test_certificates_instead_of_a_key(tmp_path):
    """Pacemaker 3.0.0 takes X.509; a certificate of another authority is refused, as is the key."""
    guest = WithCertificates(tmp_path, "trixie")
    ours = authority(tmp_path / "ca", "guest", "engine")
    try:
        await asyncio.to_thread(guest.start)
        thing = {"resource": "r-systemd", "resource_class": "systemd", "type": "thing", "timeout": 120.0}
        async with connected(guest, credentials=credentials(ours, "engine")) as (connection, _):
            assert (await connection.execute(Operation(action="start", **thing))).rc == 0
            assert (await connection.execute(Operation(action="monitor", **thing))).rc == 0
            assert (await connection.execute(Operation(action="stop", **thing))).rc == 0
        strangers = authority(tmp_path / "strangers", "engine")
        with pytest.raises(TransportError):
            async with connected(guest, credentials=credentials(strangers, "engine", ca=ours)):
                pass
        with pytest.raises(TransportError):
            async with connected(guest):
                pass
    finally:
        await asyncio.to_thread(guest.stop)
