"""Relays local clients of cluster daemons (`attrd_updater`, `crm_attribute`, `crm_node` …) to the cluster that is connected.

Owns: the sessions, each between one local process and one connected cluster, and the order in which they speak. The
cluster's controller is our client and the daemons' client at once; messages go through us unchanged. Only one request that
is to be answered is with the controller at a time: 2.1.5 takes a second for each of a burst, which then time out, and some
milliseconds for each of a sequence. Imported when the first cluster signs on as a relay. Callbacks of the loop.
Source: Pacemaker's `daemons/execd/remoted_proxy.c` and `lib/lrmd/proxy_common.c`.
"""

from __future__ import annotations

import errno
import grp
import pwd

from pcloud.agent import ipc
from pcloud.agent.ipc_channel import MAX_QUEUED
from pcloud.agent.loop import Loop, Timer, log
from pcloud.agent.server import Client, new_id
from pcloud.wire import messages as m

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("attrd", "crmd", "cib_ro", "cib_rw", "stonith-ng", "pacemakerd")
"""The daemons that a cluster relays to. The last is always refused, by which tools know that this is a remote node."""
_PROXIED, _ANSWERED = 0x100, 0x200
"""Flags of a request: its answer comes as an event of the daemon, so that the controller need not wait; it has an answer."""
_PATIENCE = 5.0
"""Seconds until the next request is let through although the last one is not answered (then its sender has given up)."""
_USER, _GROUP = "hacluster", "haclient"


class Relay:
    """The sessions of this guest."""

    __slots__ = ("_awaited", "_loop", "_pick", "_queue", "_server", "_sessions", "_timer")

    def __init__(self, loop: Loop, pick: Callable[[], Client | None]) -> None:
        """`pick` returns the connected cluster that new sessions go to."""
        self._loop, self._pick = loop, pick
        self._queue: list[m.Element] = []
        self._awaited = ""
        """The session that is to be answered; empty for none."""
        self._timer: Timer | None = None
        self._sessions: dict[str, tuple[ipc.Connection, Client]] = {}
        ipc.remove_left()
        self._server = ipc.Server(loop, on_new=self._on_new, on_message=self._on_message, on_closed=self._on_closed)
        for name in NAMES:
            try:
                self._server.listen(name)
            except OSError as error:
                log(4, f"cluster IPC {name} is not relayed: {error.strerror}")

    def close(self) -> None:
        """End every session."""
        self._server.close()

    def gone(self, provider: Client) -> None:
        """A cluster's connection has ended: its sessions end."""
        for connection, owner in list(self._sessions.values()):
            if owner is provider:
                connection.close()

    def forwarded(self, provider: Client, request: m.Element) -> None:
        """Carry out what a cluster says about one of its sessions."""
        operation, session = request.get("lrmd_ipc_op"), request.get("lrmd_ipc_session")
        connection, owner = self._sessions.get(session, (None, None))
        if connection is None or owner is not provider:
            provider.send(_message("destroy", session), 0, "notify")  # it closes its side
            return
        if operation == "destroy":
            connection.close()
            return
        holder = request.child("lrmd_ipc_msg")
        if operation not in ("event", "response") or holder is None or not holder.children:
            log(4, f"the cluster sent {operation[:64]!r} without meaning to a session")
            return
        text = holder.children[0].to_bytes()
        connection.send(text, request.number("lrmd_ipc_msg_id"), event=operation == "event")
        if operation == "response" and session == self._awaited:
            self._next()

    # --- local clients

    def _on_new(self, connection: ipc.Connection) -> int:
        provider = self._pick()
        if provider is None or connection.name == "pacemakerd":
            return errno.EREMOTEIO
        if not _allowed(connection.uid, connection.gid):
            log(4, f"process {connection.pid} of user {connection.uid} may not use cluster IPC")
            return errno.EACCES
        connection.session = new_id()
        self._sessions[connection.session] = connection, provider
        self._enqueue(_message("new", connection.session).set("lrmd_ipc_server", connection.name))
        return 0

    def _on_message(self, connection: ipc.Connection, number: int, flags: int, text: bytes) -> None:
        try:
            body = m.parse(text)
        except m.MessageError as error:
            log(4, f"process {connection.pid} sent to {connection.name} what can not be relayed: {error}")
            connection.close()
            return
        message = _message("request", connection.session)
        message.set("lrmd_ipc_client", f"proxy-{connection.name}-{connection.pid}-{connection.session[:8]}")
        message.set("lrmd_ipc_user", _user(connection.uid))
        message.set("lrmd_ipc_msg_id", number).set("lrmd_ipc_msg_flags", flags | _PROXIED)
        message.children.append(m.Element("lrmd_ipc_msg", None, body))
        self._enqueue(message)

    def _on_closed(self, connection: ipc.Connection) -> None:
        session = connection.session
        _, provider = self._sessions.pop(session)
        self._queue = [message for message in self._queue if message.get("lrmd_ipc_session") != session]
        provider.send(_message("destroy", session), 0, "notify")
        if session == self._awaited:
            self._next()

    # --- one after the other

    def _enqueue(self, message: m.Element) -> None:
        if len(self._queue) >= MAX_QUEUED:
            connection, _ = self._sessions[message.get("lrmd_ipc_session")]
            log(4, f"too much waits for the cluster; process {connection.pid} is let go")
            self._loop.soon(connection.close)
            return
        self._queue.append(message)
        if not self._awaited:
            self._next()

    def _next(self) -> None:
        """Nothing is awaited any more: send what waits, up to the next request that is to be answered."""
        self._awaited = ""
        if self._timer is not None:
            self._timer.cancel()
        while self._queue and not self._awaited:
            message = self._queue.pop(0)
            session = message.get("lrmd_ipc_session")
            self._sessions[session][1].send(message, 0, "notify")
            if session in self._sessions and message.number("lrmd_ipc_msg_flags") & _ANSWERED:
                self._awaited = session
                self._timer = self._loop.later(_PATIENCE, self._next)


def _message(operation: str, session: str) -> m.Element:
    return m.Element(m.PROXY, {"lrmd_ipc_op": operation, "lrmd_ipc_session": session})


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "#unprivileged"  # upstream's word; the cluster grants it nothing


def _allowed(uid: int, gid: int) -> bool:
    """Whether a user may reach the cluster: root, the cluster's own user, and the members of its group, as upstream."""
    if uid == 0:
        return True
    try:
        group = grp.getgrnam(_GROUP)
    except KeyError:
        return False
    name = _user(uid)
    return gid == group.gr_gid or name == _USER or name in group.gr_mem
