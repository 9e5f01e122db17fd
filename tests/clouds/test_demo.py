"""`make demo INFRASTRUCTURE=openstack` as a user runs it, against the credentials in the environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from tests.clouds.guests import SDK_WARNINGS
from tests.e2e.stage import CHECKOUT, ROOT, about, missing

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), *SDK_WARNINGS]
HOME = Path(f"/var/tmp/pcloud-e2e-{CHECKOUT}-odemo")
FAULTS = ["guest-deleted", "guest-broken", "engine-killed", "daemon-killed"]


def demo(tmp_path: Path, **changes: str) -> tuple[int, str]:
    """Run it; return its exit status and what it said."""
    log = tmp_path / "demo.log"
    # as typed into a shell: below another make, make itself would have the last word ("Leaving directory")
    typed = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    with log.open("w") as file:  # the daemon would hold a pipe open
        done = subprocess.run(
            ["make", "demo", "INFRASTRUCTURE=openstack", "NETWORK=pcloud", "FLAVOR=tiny"],
            cwd=ROOT, env={**typed, "PCLOUD_DEMO_HOME": str(HOME), **changes}, stdin=subprocess.DEVNULL, stdout=file,
            stderr=file, check=False, timeout=800,
        )  # fmt: skip
    return done.returncode, log.read_text()


def test_it_says_what_it_leaves_out_and_ends_well(nova, tmp_path):
    if lacking := missing():
        pytest.skip(lacking)
    code, text = demo(tmp_path)
    assert code == 0, text[-4000:]
    last = json.loads(text.splitlines()[-1])
    assert last["ok"] is True
    assert [fault["name"] for fault in last["faults"]] == FAULTS
    for fault in last["faults"]:
        assert 0 < fault["detected_s"] <= fault["recovered_s"]
    assert "nothing runs inside its servers" in text
    assert [each.name for each in nova.compute.servers() if each.name.startswith("pcloud-demo-")] == []
    assert [each.name for each in nova.image.images() if each.name.startswith("pcloud-demo-")] == []
    assert not HOME.exists()
    assert about(str(HOME)) == []


def test_without_a_cloud_it_says_so(cloud, tmp_path):
    code, text = demo(tmp_path, OS_PASSWORD="not-it")
    assert code != 0
    line = next(json.loads(line) for line in reversed(text.splitlines()) if line.startswith("{"))
    assert line["ok"] is False
    assert "OS_CLOUD" in line["problem"]
    assert "not-it" not in text
