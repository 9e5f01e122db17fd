"""The manifest a person types by hand: applied as it stands, again, changed, stopped, deleted."""

from __future__ import annotations

import json

import pytest

from tests.e2e.stage import SHOP, Stage, names

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


def test_it_is_accepted_as_it_stands_and_runs(shop: Stage) -> None:
    assert shop.page() == "shop\n"
    db = next(each["address"] for each in shop.status()["assemblies"] if each["name"] == "db")
    assert shop.guest("shop/web", "cat", "/run/pcloud/resources/httpd.env") == f'db_host="{db}"'
    environment = shop.guest("shop/web", "cat", f"/proc/{shop.main_pid('shop/web', 'apache2')}/environ").split("\0")
    assert f"db_host={db}" in environment


def test_applied_again_nothing_is_touched(shop: Stage) -> None:
    before, cursor = shop.processes(), shop.cursor()
    assert "unchanged" in shop.apply(SHOP)
    assert shop.processes() == before
    assert not [event for event in shop.events(cursor, "shop") if event["data"]["state"] in ("starting", "stopped")]


def test_a_changed_parameter_restarts_only_its_service(shop: Stage) -> None:
    before = shop.processes()
    shop.apply(SHOP.replace("{reference: db.ipaddress}}", "{reference: db.ipaddress}, colour: green}"))
    shop.running()
    after = shop.processes()
    assert {key for key in before if before[key] != after[key]} == {"apache2"}
    assert 'colour="green"' in shop.guest("shop/web", "cat", "/run/pcloud/resources/httpd.env")


def test_a_changed_file_touches_only_its_guest(shop: Stage) -> None:
    before = shop.processes()
    shop.apply(SHOP.replace('"shop\\n"', '"sale\\n"'))
    shop.running()
    assert shop.page() == "sale\n"
    after = shop.processes()
    assert (after["mariadb"], after["db"]) == (before["mariadb"], before["db"])
    assert after["web"] != before["web"]


def test_stop_and_start(shop: Stage) -> None:
    shop.pcloud("stop", "shop", "--wait")
    status = shop.status()
    assert status["state"] == "stopped"
    assert {each["state"] for each in status["assemblies"]} == {"stopped"}
    cursor = shop.cursor()
    shop.pcloud("start", "shop", "--wait")
    assert shop.page() == "shop\n"
    # mysqld ran before httpd was started: the order of the manifest.
    shop.told(cursor, "shop/web/httpd", "running")
    order = [(e["subject"], e["data"]["state"]) for e in shop.events(cursor, "shop")]
    assert order.index(("shop/db/mysqld", "running")) < order.index(("shop/web/httpd", "starting"))


def test_delete_leaves_nothing(shop: Stage) -> None:
    shop.pcloud("delete", "shop", "--yes", "--wait")
    assert shop.json("get") == []
    assert shop.left() == []
    assert shop.bridge not in names("links")
    assert not list((shop.home / "keys").glob("*shop*"))
    shop.pcloud("status", "shop", code=3)


def test_the_shapes_that_scripts_rely_on(shop: Stage) -> None:
    assert [each["name"] for each in shop.json("get")] == ["shop"]
    status = shop.status()
    assert {"name", "state", "assemblies"} <= status.keys()
    for assembly in status["assemblies"]:
        assert {"name", "state", "address", "resources"} <= assembly.keys()
        assert [resource.keys() >= {"name", "state"} for resource in assembly["resources"]] == [True]
    lines = shop.pcloud("events", "-o", "json").splitlines()
    assert lines
    for line in lines:
        event = json.loads(line)
        assert event["specversion"] == "1.0"
        assert {"id", "source", "type", "subject", "time", "datacontenttype"} <= event.keys()
        assert {"deployable", "assembly", "resource", "state", "reason"} <= event["data"].keys()


def test_exit_codes(shop: Stage) -> None:
    shop.pcloud("status", "nobody", code=3)
    shop.pcloud("frobnicate", code=2)
    assert shop.run("assembly", "exec", "-n", "shop/web", "--", "sh", "-c", "exit 42").returncode == 42
    away = {**shop.environment, "PCLOUD_URL": "http://127.0.0.1:9"}
    kept, shop.environment = shop.environment, away
    try:
        shop.pcloud("get", code=5)
    finally:
        shop.environment = kept
    kept, shop.environment = shop.environment, {**shop.environment, "PCLOUD_TOKEN": "wrong"}
    try:
        shop.pcloud("get", code=7)
    finally:
        shop.environment = kept
