"""Containers in a Swift behind a real Keystone: by an entry of clouds.yaml, with tokens that run out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from pcloud.objects.checks import checks
from pcloud.objects.errors import ObjectStoreError
from pcloud.objects.settings import ObjectStoreSettings, SwiftSettings
from pcloud.objects.store import ObjectStore
from tests.clouds.guests import SDK_WARNINGS
from tests.clouds.peer import KEYSTONE
from tests.stacks.objects import Swift, running

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), *SDK_WARNINGS]


@pytest.fixture
def swift(cloud: dict[str, str], nova: Any) -> Iterator[Swift]:
    """Swift in the catalogue."""
    with running(f"{KEYSTONE}/v3") as peer:
        service = nova.identity.create_service(name="swift", type="object-store")
        url = f"{peer.url}/v1/AUTH_%(project_id)s"
        endpoint = nova.identity.create_endpoint(
            service_id=service.id, interface="public", url=url, region_id="RegionOne"
        )
        yield peer
        nova.identity.delete_endpoint(endpoint)
        nova.identity.delete_service(service)


async def test_containers_behind_keystone(
    swift: Swift, cloud: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = (
        "clouds:\n  mine:\n    region_name: RegionOne\n    auth:\n"
        f"      auth_url: {cloud['OS_AUTH_URL']}\n      username: {cloud['OS_USERNAME']}\n      password: PASSWORD\n"
        f"      project_name: {cloud['OS_PROJECT_NAME']}\n      user_domain_name: Default\n"
        "      project_domain_name: Default\n"
    )
    file = tmp_path / "clouds.yaml"
    file.write_text(entry.replace("PASSWORD", cloud["OS_PASSWORD"]))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
    for name in cloud:
        monkeypatch.delenv(name)
    store = ObjectStore(ObjectStoreSettings(swift=SwiftSettings(cloud="mine")), {})
    containers = store.containers
    assert containers is not None
    assert [(line.check, line.state) for line in await checks(store)][1] == ("object store: Swift", "ok")
    assert not await containers.exists("box")
    await containers.create("box", {"X-Container-Meta-Colour": "red"})
    assert await containers.exists("box")
    await containers._call("PUT", "box/a%2Fb", headers={"Content-Length": "0"})
    containers._token = "gone"
    with pytest.raises(ObjectStoreError, match="not empty"):
        await containers.delete("box", purge=False)
    await containers.delete("box", purge=True)
    assert not await containers.exists("box")
    await store.close()

    file.write_text(entry.replace("PASSWORD", "wrongword"))
    store = ObjectStore(ObjectStoreSettings(swift=SwiftSettings(cloud="mine")), {})
    assert store.containers is not None
    with pytest.raises(ObjectStoreError, match="gives no token: Unauthorized") as caught:
        await store.containers.exists("box")
    assert "wrongword" not in str(caught.value)
    await store.close()
