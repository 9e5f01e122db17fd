"""What load balancers have in common: who is served, and the configuration of haproxy that follows."""

from __future__ import annotations

import re

import msgspec

from pcloud.stacks.types.base import Context, ResourceType

_NAME = re.compile(r"[^A-Za-z0-9_.-]")


class Balancer(ResourceType):
    """Base of load balancers. `record.data["members"]` is owner → ids of the instances it brings in."""

    async def refresh(self, context: Context, *, force: bool = False) -> None:
        """Make the balancer serve who it shall serve now, at the addresses that they have now."""
        raise NotImplementedError


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """How a server's health is seen."""

    protocol: str = "TCP"
    """TCP, SSL (a connection is enough), HTTP or HTTPS (the page must answer with 2xx or 3xx)."""
    port: int = 0
    """0 means the port that is served."""
    path: str = "/"
    interval: float = 30.0
    timeout: float = 5.0
    healthy: int = 3
    unhealthy: int = 5


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One instance behind a listener."""

    name: str
    address: str
    port: int = 0
    """0 means the listener's."""
    weight: int = 1


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """One port that is served."""

    port: int
    target: int
    protocol: str = "HTTP"
    """HTTP or TCP."""
    balance: str = "roundrobin"
    """haproxy's word: roundrobin, leastconn or source."""
    servers: tuple[Server, ...] = ()
    check: Check | None = None
    limit: int = 0
    """Connections at once; 0 is haproxy's own limit."""
    cookie: bool = False
    """Whether a client stays at the server that its cookie names."""


SOCKET = "/run/haproxy/admin.sock"
"""Where haproxy tells its statistics."""


def configuration(listeners: tuple[Listener, ...]) -> str:
    """Return haproxy's configuration file. Names and paths hold nothing but harmless characters."""
    lines = [
        "global",
        "    daemon",
        f"    stats socket {SOCKET} mode 600 level admin",
        "    maxconn 4096",
        "defaults",
        "    timeout connect 5s",
        "    timeout client 60s",
        "    timeout server 60s",
        "    retries 3",
        "    option redispatch 1",
        "    default-server init-addr last,libc,none",
    ]
    for listener in listeners:
        mode = "http" if listener.protocol in ("HTTP", "HTTPS") else "tcp"
        lines += [f"frontend port-{listener.port}", f"    mode {mode}", f"    bind *:{listener.port}"]
        if listener.limit:
            lines.append(f"    maxconn {listener.limit}")
        lines += [f"    default_backend to-{listener.port}", f"backend to-{listener.port}", f"    mode {mode}"]
        lines.append(f"    balance {listener.balance}")
        if mode == "http":
            lines += ["    option forwardfor", "    retry-on conn-failure empty-response 0rtt-rejected"]
            if listener.cookie:
                lines.append("    cookie PCLOUDLB insert indirect nocache")
        lines += _servers(listener)
    return "\n".join(lines) + "\n"


def _servers(listener: Listener) -> list[str]:
    check = listener.check
    lines = []
    options = ""
    if check is not None:
        if check.protocol in ("HTTP", "HTTPS"):
            path = re.sub(r"[^A-Za-z0-9/_.~%?&=:@+,-]", "", check.path)
            lines += [f"    option httpchk GET {path or '/'}", f"    timeout check {_milliseconds(check.timeout)}"]
        else:
            lines += [f"    timeout check {_milliseconds(check.timeout)}"]
        options = f" check inter {_milliseconds(check.interval)} rise {check.healthy} fall {check.unhealthy}"
        if check.port:
            options += f" port {check.port}"
        if check.protocol in ("SSL", "HTTPS"):
            options += " check-ssl verify none"
    for server in sorted(listener.servers, key=lambda item: item.name):
        name = _NAME.sub("-", server.name) or "server"
        line = f"    server {name} {_address(server.address)}:{server.port or listener.target} weight {server.weight}"
        if listener.cookie and listener.protocol == "HTTP":
            line += f" cookie {name}"
        lines.append(line + options)
    return lines


def _address(text: str) -> str:
    import ipaddress

    address = ipaddress.ip_address(text)  # ValueError for what is none: it never gets into the file
    return f"[{address}]" if address.version == 6 else str(address)


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def read_target(target: str) -> Check | None:
    """Read CloudFormation's `HTTP:80/path` or `TCP:80`; None when it is neither."""
    match = re.fullmatch(r"(?P<protocol>HTTP|HTTPS|TCP|SSL):(?P<port>\d{1,5})(?P<path>/\S{0,1024})?", target)
    if match is None or not 0 < int(match["port"]) < 65536:
        return None
    if (match["protocol"] in ("HTTP", "HTTPS")) != bool(match["path"]):
        return None
    return Check(protocol=match["protocol"], port=int(match["port"]), path=match["path"] or "/")
