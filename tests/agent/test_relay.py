"""Sessions of local clients with clusters that misbehave, and with more than one of them. `tests/peers` has real ones."""

import errno

import pytest

from pcloud.agent import relay
from pcloud.agent.loop import Loop
from pcloud.wire import messages as m


class Cluster:
    """Stands for a connected cluster: keeps what it is told."""

    def __init__(self) -> None:
        self.got: list[m.Element] = []

    def send(self, message: m.Element, number: int, kind: str) -> None:
        assert (number, kind) == (0, "notify")
        self.got.append(message)

    def operations(self) -> list[str]:
        return [message.get("lrmd_ipc_op") for message in self.got]


class Local:
    """Stands for a local client's connection."""

    def __init__(self, name: str = "attrd", uid: int = 0) -> None:
        self.name, self.pid, self.uid, self.gid, self.session = name, 42, uid, uid, ""
        self.got: list[tuple[bytes, int, bool]] = []
        self.relay: relay.Relay | None = None

    def send(self, payload: bytes, number: int, *, event: bool) -> None:
        self.got.append((payload, number, event))

    def close(self) -> None:
        if self.session and self.session in self.relay._sessions:
            self.relay._on_closed(self)


class World:
    def __init__(self, monkeypatch) -> None:
        monkeypatch.setattr(relay, "NAMES", ())
        self.loop = Loop()
        self.clusters: list[Cluster] = [Cluster()]
        self.relay = relay.Relay(self.loop, lambda: self.clusters[-1] if self.clusters else None)

    def connect(self, **who) -> Local:
        made = Local(**who)
        made.relay = self.relay
        assert self.relay._on_new(made) == 0
        return made

    def ask(self, client: Local, number: int, flags: int = 0x200) -> None:
        self.relay._on_message(client, number, flags, b"<attrd_update n='%d'/>" % number)

    def say(self, cluster: Cluster, operation: str, client: Local, number: int = 0, body: str = "<ack/>") -> None:
        text = (
            f'<lrmd_ipc_proxy lrmd_ipc_op="{operation}" lrmd_ipc_session="{client.session}" lrmd_ipc_msg_id="{number}">'
        )
        text += f"<lrmd_ipc_msg>{body}</lrmd_ipc_msg></lrmd_ipc_proxy>"
        self.relay.forwarded(cluster, m.parse(text.encode()))


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_a_request_and_its_answer(world):
    cluster = world.clusters[0]
    client = world.connect()
    world.ask(client, 7)
    new, request = cluster.got
    assert (new.get("lrmd_ipc_op"), new.get("lrmd_ipc_server")) == ("new", "attrd")
    assert request.get("lrmd_ipc_user") == "root"
    assert request.number("lrmd_ipc_msg_flags") == 0x300, "to be answered, and proxied"
    assert request.child("lrmd_ipc_msg").children[0].tag == "attrd_update"
    world.say(cluster, "response", client, 7)
    world.say(cluster, "event", client, body="<changed/>")
    assert client.got == [(b"<ack/>", 7, False), (b"<changed/>", 0, True)]
    client.close()
    assert cluster.operations() == ["new", "request", "destroy"]


def test_one_request_at_a_time(world):
    cluster = world.clusters[0]
    clients = [world.connect() for _ in range(3)]
    for client in clients:
        world.ask(client, 1)
    assert cluster.operations().count("request") == 1
    world.say(cluster, "event", clients[0], body="<changed/>")
    assert cluster.operations().count("request") == 1, "an event is no answer"
    world.say(cluster, "response", clients[0], 1)
    assert cluster.operations().count("request") == 2
    clients[1].close()  # the tool gave up, or was killed
    assert cluster.operations().count("request") == 3
    assert [request.get("lrmd_ipc_session") for request in cluster.got if request.get("lrmd_ipc_op") == "request"] == [
        client.session for client in clients
    ]


def test_a_request_without_an_answer_holds_nothing_up(world):
    first, second = world.connect(), world.connect()
    world.ask(first, 1, flags=0)
    world.ask(second, 1)
    assert world.clusters[0].operations().count("request") == 2


def test_a_cluster_that_does_not_answer_holds_others_up_for_a_while_only(world, monkeypatch):
    monkeypatch.setattr(relay, "_PATIENCE", 0.05)
    first, second = world.connect(), world.connect()
    world.ask(first, 1)
    world.ask(second, 1)
    assert world.clusters[0].operations().count("request") == 1
    while world.clusters[0].operations().count("request") == 1:
        world.loop.once()


def test_a_client_that_asks_and_asks_is_let_go(world):
    first, flood = world.connect(), world.connect()
    world.ask(first, 1)
    for number in range(1000):
        world.ask(flood, number)
    world.loop.soon(lambda: None)
    world.loop.once()
    assert flood.session not in world.relay._sessions
    assert world.relay._queue == []


def test_no_cluster_a_stranger_and_the_daemon_that_is_never_relayed(world):
    assert world.relay._on_new(Local("pacemakerd")) == errno.EREMOTEIO
    assert world.relay._on_new(Local(uid=54321)) == errno.EACCES
    world.clusters.clear()
    assert world.relay._on_new(Local()) == errno.EREMOTEIO
    assert not world.relay._sessions


def test_a_clusters_end_is_its_sessions_end_and_no_others(world):
    old = world.clusters[0]
    mine = world.connect()
    world.clusters.append(Cluster())
    other = world.connect()
    world.ask(mine, 1)
    world.ask(other, 1)
    world.relay.gone(old)
    assert list(world.relay._sessions) == [other.session]
    assert world.clusters[1].operations() == ["new", "request"], "it no longer waits for an answer of the other"


def test_a_cluster_can_not_speak_in_anothers_session(world):
    mine = world.connect()
    stranger = Cluster()
    for operation in ("response", "event", "destroy"):
        world.say(stranger, operation, mine)
    assert stranger.operations() == ["destroy"] * 3
    assert mine.got == []
    assert mine.session in world.relay._sessions


@pytest.mark.parametrize("operation", ["request", "new", "", "shutdown_req"])
def test_what_a_cluster_never_says(world, operation):
    client = world.connect()
    world.say(world.clusters[0], operation, client)
    world.relay.forwarded(
        world.clusters[0],
        m.Element(m.PROXY, {"lrmd_ipc_op": "event", "lrmd_ipc_session": client.session}),
    )
    assert client.got == []


def test_what_is_no_xml_ends_the_session(world):
    client = world.connect()
    world.relay._on_message(client, 1, 0x200, b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>")
    assert client.session not in world.relay._sessions
    assert world.clusters[0].operations() == ["new", "destroy"]
