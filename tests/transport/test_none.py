"""The transport that reaches nothing."""

from __future__ import annotations

import pytest

from pcloud.environment.transport import Endpoint, Operation, TransportError
from pcloud.transport.none import NoTransport


async def test_it_connects_to_anything_and_runs_nothing():
    lost: list[TransportError] = []
    transport = NoTransport()
    endpoint = Endpoint(guest_id="shop.web", address="", port=0)
    connection = await transport.connect(endpoint, on_result=lambda _: None, on_lost=lost.append, timeout=0.1)
    await connection.check(timeout=0.1)
    with pytest.raises(TransportError) as caught:
        await connection.execute(
            Operation(resource="rsc_web_httpd", resource_class="systemd", type="httpd", action="start")
        )
    assert caught.value.code == "NOT_SUPPORTED"
    assert "shop.web" in str(caught.value)
    await connection.cancel("rsc_web_httpd", "monitor", 10.0)
    await connection.forget("rsc_web_httpd")
    await connection.close()
    await transport.close()
    assert lost == []
