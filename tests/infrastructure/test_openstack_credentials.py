"""Whose OpenStack credentials are used, and what `doctor` says where there are none; no cloud is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from openstack.exceptions import ConfigException

from pcloud.environment.infrastructure import InfrastructureUnavailable
from pcloud.infrastructure.openstack_checks import checks
from pcloud.infrastructure.openstack_credentials import region
from pcloud.infrastructure.openstack_session import OpenStackSession
from pcloud.infrastructure.openstack_settings import OpenStackSettings
from tests.clouds.guests import SDK_WARNINGS

pytestmark = SDK_WARNINGS

CLOUDS = """\
clouds:
  broken: {auth: {username: zoe}}
  mine: {auth: {auth_url: "http://127.0.0.1:9/v3", username: alice, password: p, project_name: shop}}
  others: {auth: {auth_url: "http://127.0.0.1:9/v3", username: bob, password: p, project_name: shop}}
  carol: {auth: {auth_url: "http://127.0.0.1:9/v3", username: c-1234, password: p, project_name: shop}}
"""


@pytest.fixture(autouse=True)
def clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No credentials but those of a file."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "clouds.yaml"
    file.write_text(CLOUDS)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
    return file


@pytest.mark.parametrize(
    ("cloud", "username", "found"),
    [("mine", "", "mine"), ("mine", "alice", "mine"), ("mine", "bob", "others"), ("mine", "carol", "carol"),
     ("others", "alice", "mine"), ("", "bob", "others")],
)  # fmt: skip
def test_the_entry_of_a_user(cloud, username, found):
    assert region(OpenStackSettings(cloud=cloud, username=username)).name == found


def test_the_environment_of_a_user(monkeypatch):
    for name, value in {"AUTH_URL": "http://127.0.0.1:9/v3", "USERNAME": "eve", "PASSWORD": "p"}.items():
        monkeypatch.setenv(f"OS_{name}", value)
    assert region(OpenStackSettings(username="eve")).config["auth"]["username"] == "eve"
    assert region(OpenStackSettings(username="alice")).name == "mine"


@pytest.mark.parametrize(
    "settings",
    [OpenStackSettings(cloud="mine", username="mallory"), OpenStackSettings(cloud="nowhere"),
     OpenStackSettings(cloud="broken"), OpenStackSettings(username="zoe")],
    ids=["no such user", "no such cloud", "no auth_url", "no auth_url of a user"],
)  # fmt: skip
async def test_without_credentials_the_cloud_is_away(settings):
    with pytest.raises(ConfigException):
        region(settings)
    session = OpenStackSession(settings)
    with pytest.raises(InfrastructureUnavailable, match="credentials"):
        await session.call(lambda connection: None)
    session.close()


async def test_credentials_that_are_added_are_used(clouds):
    """The daemon need not be started again for them."""
    session = OpenStackSession(OpenStackSettings(cloud="later"))
    with pytest.raises(InfrastructureUnavailable):
        await session.call(lambda connection: None)
    clouds.write_text(CLOUDS.replace("others:", "later:"))
    assert await session.call(lambda connection: connection.config.name) == "later"
    session.close()


def test_doctor_says_what_is_missing():
    assert [(check.check, check.state) for check in checks({"cloud": "nowhere"})] == [
        ("openstack: openstacksdk", "ok"), ("openstack: credentials", "missing"),
    ]  # fmt: skip
    settings = checks({"clouds": "mine"})[-1]
    assert (settings.check, settings.state) == ("openstack: settings", "missing")
    assert "clouds" in settings.detail
    away = checks({"cloud": "mine"})[-1]
    assert (away.check, away.state) == ("openstack: cloud", "missing")
    assert "alice at http://127.0.0.1:9/v3 (mine)" in away.detail
    assert all(check.hint for check in (settings, away))
