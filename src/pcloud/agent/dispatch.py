"""What each message of a client means, and the messages that answer it.

Owns: the protocol's state per client (name, relay), call ids, and the agent's orderly end. Callbacks of the loop.
"""

from __future__ import annotations

import errno
import time

from pcloud.agent.booting import Boot
from pcloud.agent.commands import Command
from pcloud.agent.executor import Executor
from pcloud.agent.loop import Loop, log
from pcloud.agent.operation import DONE, FAILED, Child, Result
from pcloud.agent.server import Client, Server
from pcloud.wire import messages as m
from pcloud.wire.gnutls import Credentials

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

    from pcloud.agent.relay import Relay


class Daemon:
    """The agent: server and executor, and the rules between them."""

    __slots__ = ("_alerts", "_boot", "_call_id", "_loop", "_relay", "_shutting_down", "_started", "executor", "server")

    def __init__(self, loop: Loop, credentials: Credentials) -> None:
        self._loop = loop
        self._call_id = 0
        self._alerts = 0
        self._relay: Relay | None = None
        self._shutting_down = False
        self._started = time.monotonic()
        self.executor = Executor(loop, self._on_result)
        self._boot = Boot(loop, self.executor.job_ended)
        self.server = Server(loop, credentials, on_new=self._on_new, on_message=self._on_message, on_gone=self._on_gone)

    # --- the agent's end

    def shutdown(self) -> None:
        """End in order: when a cluster is connected, ask it to stop its resources here, and wait until it has gone."""
        provider = self._provider()
        if provider is None:
            self.exit()
            return
        if self._shutting_down:
            log(5, "waiting for the cluster to stop its resources")
            return
        self._shutting_down = True
        self.executor.ending()
        log(5, "asking the cluster to stop its resources here")
        self.server.stop_listening()
        request = m.Element(m.PROXY, {"lrmd_ipc_op": "shutdown_req", "lrmd_ipc_session": "0"})
        provider.send(request, 0, "notify")

    def exit(self) -> None:
        """End now. What runs in this guest goes on."""
        self.server.stop_listening()
        if self._relay is not None:
            self._relay.close()
        for client in list(self.server.clients.values()):
            client.drop("is let go", 6)
        self._loop.stop()

    def _provider(self) -> Client | None:
        """The newest relay, as upstream does: an older one may be a connection that is dead and not yet known to be."""
        providers = [client for client in self.server.clients.values() if client.provider]
        return providers[-1] if providers else None

    # --- clients

    def _on_new(self, client: Client) -> None:
        log(5, f"client {client.address} connected")
        notice = m.Element(m.NOTIFY, {"lrmd_origin": "pcloud", "lrmd_op": m.OP_NEW_CLIENT})
        for other in list(self.server.clients.values()):
            if other is not client and other.name:
                other.send(notice, 0, "notify")

    def _on_gone(self, client: Client) -> None:
        self.executor.client_gone(not self.server.clients)
        if self._relay is not None and client.provider:
            self._relay.gone(client)
        if self._shutting_down and not any(other.provider for other in self.server.clients.values()):
            self.exit()

    # --- requests

    def _on_message(self, client: Client, request: m.Element) -> None:
        number = request.number("lrmd_remote_msg_id")
        if not client.name:
            client.name = request.get("lrmd_clientname")[:256]
        self._call_id = self._call_id % 0x7FFFFFFF + 1
        call_id = self._call_id
        operation = request.get("lrmd_op")
        handler = _HANDLERS.get(operation)
        if handler is None:
            log(4, f"unknown request {operation[:64]!r} from {client.name or client.address}")
            client.send(_reply(-errno.EOPNOTSUPP, call_id), number, "reply")
            return
        reply = handler(self, client, request, call_id)
        if reply is not None:
            client.send(reply, number, "reply")
        rc = reply.number("lrmd_rc") if reply is not None else 0
        if operation in (m.OP_POKE, m.OP_RSC_REG) or (operation == m.OP_RSC_UNREG and rc in (0, -errno.EINPROGRESS)):
            self._notify_all(operation, rc, call_id, request)

    def _notify_all(self, operation: str, rc: int, call_id: int, request: m.Element) -> None:
        resource = request.find(m.RSC)
        notice = m.Element(
            m.NOTIFY, {"lrmd_origin": "pcloud", "lrmd_rc": str(rc), "lrmd_callid": str(call_id), "lrmd_op": operation}
        )
        if resource is not None and "lrmd_rsc_id" in resource.attributes:
            notice.set("lrmd_rsc_id", resource.get("lrmd_rsc_id"))
        for client in list(self.server.clients.values()):
            if client.name:
                client.send(notice, 0, "notify")

    def _register(self, client: Client, request: m.Element, call_id: int) -> m.Element | None:
        """Sign a client on; while the guest boots, later if it is patient. Others, as a cluster, come again when refused,
        and would do nothing else while they wait."""
        if self._boot.over:
            return self._registered(client, request, call_id)
        if not request.get(m.PATIENT):
            client.drop("came before the guest has booted")
            return None
        number = request.number("lrmd_remote_msg_id")

        def booted() -> None:
            if client.connected:
                client.send(self._registered(client, request, call_id), number, "reply")

        self._boot.then(booted)
        return None

    def _registered(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        version = request.get("lrmd_protocol_version")
        rc = 0
        if not version.split(".")[0].isdigit() or int(version.split(".")[0][:9]) < 1:
            rc = -errno.EPROTO
        elif request.get("lrmd_is_ipc_provider").lower() in ("true", "1", "yes", "on", "y"):
            client.provider = True
            if self._relay is None:
                from pcloud.agent.relay import Relay  # here: guests that no cluster manages do not pay for it

                self._relay = Relay(self._loop, self._provider)
        reply = _reply(rc, call_id).set("lrmd_op", m.OP_REGISTER).set("lrmd_clientid", client.id)
        reply.set("lrmd_protocol_version", _agreed(version))
        if _agreed(version) == m.VERSION:
            reply.set("uptime", int(time.monotonic() - self._started))
        return reply

    def _rsc_register(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        resource = request.find(m.RSC)
        if resource is None or not resource.get("lrmd_rsc_id"):
            return _reply(-errno.EINVAL, call_id)
        rc = self.executor.register(
            resource.get("lrmd_rsc_id"),
            resource.get("lrmd_class"),
            resource.get("lrmd_provider"),
            resource.get("lrmd_type"),
            request.number("lrmd_callopt"),
        )
        return _reply(rc, call_id)

    def _rsc_unregister(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        resource = request.find(m.RSC)
        if resource is None or not resource.get("lrmd_rsc_id"):
            return _reply(-errno.ENODEV, call_id)
        return _reply(self.executor.unregister(resource.get("lrmd_rsc_id")), call_id)

    def _rsc_info(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        wanted = request.find(m.RSC)
        known = self.executor.resources.get(wanted.get("lrmd_rsc_id")) if wanted is not None else None
        if known is None:
            return _reply(-errno.ENODEV, call_id)
        reply = _reply(0, call_id).set("lrmd_rsc_id", known.id).set("lrmd_class", known.resource_class)
        if known.provider:
            reply.set("lrmd_provider", known.provider)
        return reply.set("lrmd_type", known.type)

    def _execute(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        wanted = request.find(m.RSC)
        if wanted is None or not wanted.get("lrmd_rsc_id"):
            return _reply(-errno.EINVAL, call_id)
        command = Command(
            wanted.get("lrmd_rsc_id"),
            wanted.get("lrmd_rsc_action"),
            max(0, wanted.number("lrmd_rsc_interval")),
            max(0, wanted.number("lrmd_timeout")),
            m.read_attributes(wanted),
        )
        command.start_delay = max(0, wanted.number("lrmd_rsc_start_delay"))
        command.options = request.number("lrmd_callopt")
        command.call_id = call_id
        command.client = client.id
        command.user_data = wanted.attributes.get("lrmd_rsc_userdata_str")
        rc = self.executor.execute(command)
        return _reply(rc or call_id, call_id)

    def _cancel(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        wanted = request.find(m.RSC)
        if wanted is None or not wanted.get("lrmd_rsc_id") or not wanted.get("lrmd_rsc_action"):
            return _reply(-errno.EINVAL, call_id)
        rc = self.executor.cancel(
            wanted.get("lrmd_rsc_id"), wanted.get("lrmd_rsc_action"), wanted.number("lrmd_rsc_interval")
        )
        return _reply(rc, call_id)

    def _get_recurring(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        data = request.child(m.CALLDATA)
        wanted = data.child(m.RSC) if data is not None else None
        resources = list(self.executor.resources.values())
        if wanted is not None and "lrmd_rsc_id" in wanted.attributes:
            resources = [one for one in resources if one.id == wanted.get("lrmd_rsc_id")]
            if not resources:
                return _reply(-errno.ENODEV, call_id)
        reply = _reply(0, call_id)
        for resource in resources:
            element = m.Element(m.RSC, {"lrmd_rsc_id": resource.id})
            for command in resource.recurring:
                element.children.append(
                    m.Element(
                        m.RSC_OP,
                        {
                            "lrmd_rsc_action": command.action,
                            "lrmd_rsc_interval": str(command.interval),
                            "lrmd_timeout": str(command.timeout),
                        },
                    )
                )
            reply.children.append(element)
        return reply

    def _poke(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        return _reply(0, call_id)

    def _check(self, client: Client, request: m.Element, call_id: int) -> None:
        """The cluster checks its watchdog settings against ours; we have none, and upstream answers nothing."""

    def _forwarded(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        operation = request.get("lrmd_ipc_op")
        if operation == "shutdown_ack":
            if self._shutting_down:
                log(6, "the cluster acknowledged that we want to end")
        elif operation == "shutdown_nack":
            if self._shutting_down:
                log(5, "the cluster will not stop anything here: ending at once")
                self._loop.soon(self.exit)
        elif self._relay is not None:
            self._relay.forwarded(client, request)
        else:
            # No session is open here: tell the relay to close its side.
            gone = m.Element(m.PROXY, {"lrmd_ipc_op": "destroy", "lrmd_ipc_session": request.get("lrmd_ipc_session")})
            client.send(gone, 0, "notify")
        return _reply(0, call_id)

    def _alert(self, client: Client, request: m.Element, call_id: int) -> m.Element:
        """Run an alert agent for the cluster, as the cluster's own user where there is one."""
        alert = request.find(m.ALERT)
        if alert is None or not alert.get("lrmd_alert_id") or not alert.get("lrmd_alert_path"):
            return _reply(-errno.EINVAL, call_id)
        import pwd

        from pcloud.agent.programs import base_environment

        try:
            user = pwd.getpwnam("hacluster").pw_uid
        except KeyError:
            return _reply(-errno.EACCES, call_id)
        self._alerts += 1
        environment = base_environment()
        environment.update({name: value for name, value in m.read_attributes(alert).items() if "=" not in name})
        environment["CRM_alert_node_sequence"] = str(self._alerts)
        path = alert.get("lrmd_alert_path")
        try:
            Child(self._loop, [path], environment, alert.number("lrmd_timeout") / 1000, _alert_done, user=user)
        except (OSError, ValueError) as error:
            log(4, f"alert agent {path} could not be run: {error}")
        return _reply(0, call_id)

    # --- results

    def _on_result(self, command: Command, result: Result, deleted: bool) -> None:
        now = time.monotonic()
        ran = command.ran if command.ran >= command.queued else 0.0
        notice = m.Element(
            m.NOTIFY,
            {
                "lrmd_origin": "pcloud",
                "lrmd_timeout": str(command.timeout),
                "lrmd_rsc_interval": str(command.interval),
                "lrmd_rsc_start_delay": str(command.start_delay),
                "lrmd_exec_rc": str(result.rc),
                "lrmd_exec_op_status": str(result.status),
                "lrmd_callid": str(command.call_id),
                "lrmd_rsc_deleted": str(int(deleted)),
                "lrmd_run_time": str(command.ran_at),
                "lrmd_rcchange_time": str(command.rc_changed),
                "lrmd_exec_time": str(int((now - ran) * 1000) if ran else 0),
                "lrmd_queue_time": str(int((ran - command.queued) * 1000) if ran else 0),
                "lrmd_op": m.OP_EXEC,
                "lrmd_rsc_id": command.resource_id,
                "lrmd_rsc_action": command.action,
            },
        )
        if command.user_data is not None:
            notice.set("lrmd_rsc_userdata_str", command.user_data)
        if result.reason:
            notice.set("lrmd_rsc_exit_reason", result.reason)
        if result.errors or result.output:
            notice.set("lrmd_rsc_output", result.errors or result.output)
        if command.signal == "exit" and result.status in (DONE, FAILED):
            notice.set(m.SIGNAL, "exit")
        notice.children.append(m.attributes_element(command.parameters))
        log(
            6,
            f"{command.resource_id} {command.action} (call {command.call_id}): rc {result.rc}, status {result.status}",
        )
        for client in list(self.server.clients.values()):
            if client.name and (not command.options & m.OPT_NOTIFY_ORIGINATOR or client.id == command.client):
                client.send(notice, 0, "notify")


def _alert_done(result: Result) -> None:
    if result.status != DONE or result.rc:
        log(5, f"an alert agent ended with status {result.status}, exit code {result.rc}")


def _agreed(version: str) -> str:
    """Return the protocol version to answer with: ours, or the older one of a peer that asks for that."""
    return "1.1" if version in ("1.0", "1.1") else m.VERSION


def _reply(rc: int, call_id: int) -> m.Element:
    return m.Element(m.REPLY, {"lrmd_origin": "pcloud", "lrmd_rc": str(rc), "lrmd_callid": str(call_id)})


_HANDLERS: dict[str, Callable[[Daemon, Client, m.Element, int], m.Element | None]] = {
    m.OP_REGISTER: Daemon._register,
    m.OP_RSC_REG: Daemon._rsc_register,
    m.OP_RSC_UNREG: Daemon._rsc_unregister,
    m.OP_RSC_INFO: Daemon._rsc_info,
    m.OP_EXEC: Daemon._execute,
    m.OP_CANCEL: Daemon._cancel,
    m.OP_GET_RECURRING: Daemon._get_recurring,
    m.OP_POKE: Daemon._poke,
    m.OP_CHECK: Daemon._check,
    m.OP_IPC_FWD: Daemon._forwarded,
    m.OP_ALERT: Daemon._alert,
}
