"""A connected cluster's controller, message by message, as far as tests need one."""

from __future__ import annotations

import socket
from collections.abc import Callable

from pcloud.wire import gnutls
from pcloud.wire import messages as m
from tests.peers.recorder import End
from tests.remoted import wait_for


class Controller:
    """Signs on as a relay, as a cluster does, and keeps what the agent says until a test asks for it."""

    def __init__(self, connection: socket.socket, key: bytes) -> None:
        self.end = End(connection, gnutls.Credentials.psk_client(key))
        self.number = 0
        self.got: list[m.Element] = []
        self.send(m.register("cluster", version="1.1", provider=True))
        self.until(lambda message: message.tag == m.REPLY, "the sign-on")

    def send(self, message: m.Element) -> None:
        """Send a request."""
        self.number += 1
        message.set("lrmd_remote_msg_id", self.number).set("lrmd_remote_msg_type", "request")
        self.end.send(message.to_bytes())

    def until(self, wanted: Callable[[m.Element], bool], what: str, seconds: float = 60.0) -> m.Element:
        """Wait for a message, and take it."""
        found: list[m.Element] = []

        def came() -> bool:
            self.got += [m.parse(payload) for payload in self.end.receive()]
            found.extend([message for message in self.got if wanted(message)][:1])
            return bool(found)

        wait_for(came, seconds, what)
        self.got.remove(found[0])
        return found[0]

    # --- cluster IPC

    def wait(self, operation: str) -> m.Element:
        """Wait for a message of the relay."""
        return self.until(lambda message: message.tag == m.PROXY and message.get("lrmd_ipc_op") == operation, operation)

    def forward(self, operation: str, **attributes: str) -> None:
        """Say something to the relay."""
        message = m.Element(m.PROXY, {"lrmd_op": m.OP_IPC_FWD, "lrmd_ipc_op": operation})
        for name, value in attributes.items():
            message.set("lrmd_ipc_" + name, value)
        self.send(message)

    def answer(self, request: m.Element, body: m.Element) -> None:
        """Answer a local client's request."""
        answer = m.Element(m.PROXY, {"lrmd_op": m.OP_IPC_FWD, "lrmd_ipc_op": "response"})
        for name in ("lrmd_ipc_session", "lrmd_ipc_msg_id"):
            answer.set(name, request.get(name))
        answer.children.append(m.Element("lrmd_ipc_msg", None, body))
        self.send(answer)

    # --- resources

    def execute(self, resource: str, kind: str, agent: str, action: str, timeout: int = 60_000) -> m.Element:
        """Register a resource, run an operation, and return its result."""
        self.send(m.command(m.OP_RSC_REG, m.resource(resource, **{"class": kind, "type": agent}), options=3))
        wanted = m.resource(resource, rsc_action=action, rsc_interval=0, timeout=timeout, rsc_start_delay=0)
        wanted.children.append(m.attributes_element({}))
        self.send(m.command(m.OP_EXEC, wanted, timeout=timeout))
        return self.until(
            lambda message: message.tag == m.NOTIFY and message.get("lrmd_rsc_action") == action,
            f"{action} of {resource}",
            timeout / 1000 + 5,
        )
