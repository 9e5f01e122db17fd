"""The fault table, on the real engine in virtual time."""

from __future__ import annotations

import pytest

from tests.dpe.harness import Scenario, play, shop


def test_start_in_order_probe_start_monitor() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")

    s = play(shop(), story)
    did = s.world.actions()
    service = [a for a in did if "rsc_db_mysqld" in a]
    assert service == ["monitor rsc_db_mysqld", "start rsc_db_mysqld", "monitor/10 rsc_db_mysqld"]
    assert did.index("start rsc_db_mysqld") < did.index("start cfg_web_httpd") < did.index("start rsc_web_httpd")
    # both guests boot side by side
    assert {did[0], did[1]} == {"boot shop.db", "boot shop.web"}
