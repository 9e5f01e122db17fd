"""Dry runs and replays over a real server."""

from __future__ import annotations

from tests.cpe.harness import DaemonProcess, manifest


def test_simulate_over_rest(daemon: DaemonProcess) -> None:
    daemon.apply(manifest("dry"))
    daemon.running("dry")
    path = "/v1/deployables/dry/simulate"
    report = daemon.call("POST", path, 200, json={"faults": ["wait 1s"]})
    assert report["state"] == "running"
    assembly = report["status"]["assemblies"][0]["name"]
    report = daemon.call("POST", path, 200, json={"faults": [f"kill guest {assembly}"]})
    assert assembly in report["restarted"]
    assert [m["text"] for m in report["timeline"] if m["kind"] == "fault"] == [f"kill guest {assembly}"]
    changed = daemon.call(
        "POST", path, 200, json={"faults": ["apply new.yaml"], "files": {"new.yaml": manifest("dry")}}
    )
    assert changed["restarted"] == []
    assert daemon.call("GET", "/v1/deployables/dry")["state"] == "running"


def test_what_is_wrong_in_a_scenario_is_told(daemon: DaemonProcess) -> None:
    daemon.apply(manifest("dry"))
    daemon.running("dry")
    path = "/v1/deployables/dry/simulate"
    errors = daemon.call("POST", path, 422, json={"faults": ["explode", "kill guest nobody", "apply gone.yaml"]})[
        "errors"
    ]
    assert [e["code"] for e in errors] == ["UNKNOWN_FAULT", "UNKNOWN_ASSEMBLY", "NO_SUCH_FILE"]
    other = {"faults": ["apply x.yaml"], "files": {"x.yaml": manifest("other")}}
    assert daemon.call("POST", path, 422, json=other)["errors"][0]["code"] == "OTHER_DEPLOYABLE"
    broken = {"faults": ["apply x.yaml"], "files": {"x.yaml": "]["}}
    assert daemon.call("POST", path, 422, json=broken)["errors"][0]["file"] == "x.yaml"
    daemon.call("POST", path, 422, json={"faults": []})
    daemon.call("POST", "/v1/deployables/nobody/simulate", 404, json={"faults": ["wait 1s"]})


def test_replay_over_rest(daemon: DaemonProcess) -> None:
    daemon.apply(manifest("dry"))
    daemon.running("dry")
    assert all(v["result"] in ("same", "nothing recorded") for v in daemon.call("GET", "/v1/deployables/dry/replay"))
    daemon.call("GET", "/v1/deployables/nobody/replay", 404)
