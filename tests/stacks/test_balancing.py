"""Load balancers: the configuration that follows from their parts."""

from __future__ import annotations

import pytest

from pcloud.stacks.types.balancing import Check, Listener, Server, configuration, read_target
from pcloud.stacks.types.octavia import _listener


def test_configuration_of_listeners() -> None:
    check = Check(protocol="HTTP", port=8080, path="/he alth\n  bad", interval=2, timeout=1.5, healthy=2, unhealthy=4)
    servers = (Server(name="i-2", address="192.0.2.2"), Server(name="i 1\nevil", address="2001:db8::1", port=81))
    text = configuration(
        (Listener(port=80, target=8080, servers=servers, check=check), Listener(port=25, target=25, protocol="TCP"))
    )
    lines = [line.strip() for line in text.splitlines()]
    assert "bind *:80" in lines
    assert "option httpchk GET /healthbad" in lines
    assert "server i-2 192.0.2.2:8080 weight 1 check inter 2000ms rise 2 fall 4 port 8080" in lines
    assert "server i-1-evil [2001:db8::1]:81 weight 1 check inter 2000ms rise 2 fall 4 port 8080" in lines
    assert lines.count("mode tcp") == 2
    with pytest.raises(ValueError, match="does not appear"):
        configuration((Listener(port=80, target=80, servers=(Server(name="x", address="1.2.3.4\n    stats"),)),))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("HTTP:80/", Check(protocol="HTTP", port=80, path="/")),
        ("HTTP:8080/a/b?c=d", Check(protocol="HTTP", port=8080, path="/a/b?c=d")),
        ("TCP:25", Check(protocol="TCP", port=25, path="/")),
        ("HTTP:80", None),
        ("TCP:25/x", None),
        ("HTTP:99999/", None),
        ("ICMP", None),
    ],
)
def test_targets(target: str, expected: Check | None) -> None:
    assert read_target(target) == expected


def test_octavias_parts_make_a_listener() -> None:
    up = {"admin_state_up": True}
    parts = {
        "1": {"id": "l", "kind": "listener", "protocol": "HTTP", "protocol_port": 80, "connection_limit": 100, **up},
        "2": {"id": "p", "kind": "pool", "listener": "l", "lb_algorithm": "LEAST_CONNECTIONS", **up},
        "3": {"id": "m", "kind": "monitor", "pool": "p", "type": "TCP", "delay": 5, "max_retries": 5, "timeout": 3, **up},
        "4": {
            "id": "a", "kind": "member", "pool": "p", "address": "192.0.2.1", "instance": "guest",
            "protocol_port": 8000, "weight": 3, **up,
        },
        "5": {"id": "b", "kind": "member", "pool": "p", "address": "192.0.2.9", "protocol_port": 80, "weight": 1, **up},
        "6": {"id": "c", "kind": "member", "pool": "other", "address": "192.0.2.8", "protocol_port": 80, "weight": 1, **up},
    }  # fmt: skip
    listener = _listener(parts["1"], parts, {"guest": "192.0.2.77"})
    assert listener == Listener(
        port=80, target=80, balance="leastconn", limit=100,
        servers=(
            Server(name="a", address="192.0.2.77", port=8000, weight=3),
            Server(name="b", address="192.0.2.9", port=80),
        ),
        check=Check(protocol="TCP", interval=5, timeout=3, healthy=5, unhealthy=5),
    )  # fmt: skip
