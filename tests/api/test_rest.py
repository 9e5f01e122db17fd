"""The REST contract over a real server."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import socket
import threading

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cpe.harness import PATIENCE, DaemonProcess, manifest, until


def code(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["errors"][0]["code"]


def test_tokens_and_roles(daemon: DaemonProcess) -> None:
    anonymous = httpx2.Client(base_url=daemon.client.base_url, timeout=PATIENCE)
    assert anonymous.get("/healthz").text == "ok\n"
    assert code(anonymous.get("/metrics")) == (401, "UNAUTHORIZED")
    assert code(anonymous.get("/v1/deployables", headers={"X-Auth-Token": "x" * 40})) == (401, "UNAUTHORIZED")
    made = daemon.call("POST", "/v1/tokens", 201, json={"name": "ann", "role": "viewer"})
    viewer = {"X-Auth-Token": made["token"]}
    assert anonymous.get("/v1/deployables", headers=viewer).status_code == 200
    assert anonymous.get("/metrics", headers=viewer).status_code == 200
    assert code(anonymous.post("/v1/deployables", headers=viewer, content="x")) == (403, "FORBIDDEN")
    assert code(anonymous.get("/v1/tokens", headers=viewer)) == (403, "FORBIDDEN")
    assert code(anonymous.post("/v1/shutdown", headers=viewer, json={})) == (403, "FORBIDDEN")
    assert made["token"] not in daemon.client.get("/v1/tokens").text
    assert code(daemon.client.post("/v1/tokens", json={"name": "ann", "role": "viewer"})) == (409, "TOKEN_EXISTS")
    problems = daemon.call("POST", "/v1/tokens", 422, json={"name": "a/b", "role": "king"})["errors"]
    assert {one["path"] for one in problems} == {"name", "role"}
    assert code(daemon.client.delete("/v1/tokens/first")) == (409, "LAST_ADMIN")
    daemon.call("DELETE", "/v1/tokens/ann", 204)
    assert anonymous.get("/v1/deployables", headers=viewer).status_code == 401
    for path, mode in (("token", 0o600), ("pcloud.db", 0o600), ("run/cped.sock", 0o600), ("keys", 0o700)):
        assert (daemon.home / path).stat().st_mode & 0o777 == mode
    anonymous.close()


def test_apply_change_and_delete(daemon: DaemonProcess) -> None:
    assert daemon.apply(manifest("shop"), dry_run=True) == {"name": "shop", "created": True, "changed": []}
    assert daemon.call("GET", "/v1/deployables") == []
    assert daemon.apply(manifest("shop"))["created"] is True
    daemon.running("shop")
    assert daemon.apply(manifest("shop")) == {"name": "shop", "created": False, "changed": []}
    changed = manifest("shop").replace("monitor: 10s", "monitor: 5s", 1)
    assert daemon.apply(changed, dry_run=True)["changed"] == ["assemblies.db.resources.httpd.monitor_interval changed"]
    assert daemon.apply(manifest("shop", assemblies=("db",)))["changed"] == ["assemblies.web removed"]
    until(lambda: "shop.web" not in daemon.guest_files("shop"), "only the removed guest goes")

    def told() -> tuple[object, ...]:
        line = daemon.call("GET", "/v1/deployables")[0]
        return line["name"], line["state"], line["assemblies"], line["running"]

    until(lambda: told() == ("shop", "running", 1, 1), "the engine tells of the one that is left")
    for form in ("yaml", "json"):
        text = daemon.client.get("/v1/deployables/shop/manifest", params={"format": form}).text
        again = daemon.client.post("/v1/deployables", content=text, headers={"Content-Type": f"application/{form}"})
        assert again.json() == {"name": "shop", "created": False, "changed": []}
    assert daemon.call("POST", "/v1/deployables/shop/stop", 202)["target"] == "stopped"
    until(lambda: daemon.state("shop") == "stopped", "it is stopped")
    assert daemon.call("POST", "/v1/deployables/shop/pause", 202)["paused"] is True
    assert daemon.call("POST", "/v1/deployables/shop/resume", 202)["paused"] is False
    daemon.call("POST", "/v1/deployables/shop/start", 202)
    daemon.running("shop")
    daemon.call("POST", "/v1/deployables/shop/recover", 202, json={"assembly": "db"})
    daemon.call("POST", "/v1/deployables/shop/recover", 202)
    assert code(daemon.client.post("/v1/deployables/none/start")) == (404, "NO_SUCH_DEPLOYABLE")
    mistyped = daemon.client.post("/v1/deployables/shpo/start").json()["errors"][0]
    assert mistyped["hint"] == "did you mean 'shop'?"
    assert daemon.client.post("/v1/deployables/shop/explode").status_code == 422
    assert daemon.call("GET", "/v1/deployables/shop/explain", 200, params={"assembly": "db"})[0]["outcome"] == "done"
    unknown = daemon.client.get("/v1/deployables/shop/explain", params={"assembly": "nobody"})
    assert code(unknown) == (404, "NO_SUCH_ASSEMBLY")
    unknown = daemon.client.get("/v1/deployables/shop/explain", params={"assembly": "db", "resource": "nothing"})
    assert code(unknown) == (404, "NO_SUCH_RESOURCE")
    unknown = daemon.client.get("/v1/deployables/shop/standstill", params={"assembly": "db", "resource": "nothing"})
    assert code(unknown) == (404, "NO_SUCH_RESOURCE")
    waits = daemon.call("GET", "/v1/deployables/shop/standstill", params={"assembly": "db"})
    assert {one["rule"] for one in waits} == {"GUEST"}, "the stand-in's engine has not reached a guest"
    assert {one["subject"].partition("/")[0] for one in waits} == {"db"}
    job = daemon.call("DELETE", "/v1/deployables/shop", 202)["job"]
    until(lambda: daemon.call("GET", f"/v1/jobs/{job}")["state"] == "done", "deleted")
    assert daemon.call("GET", "/v1/deployables") == []


def test_an_engine_that_does_not_answer_is_why_nothing_happens(daemon: DaemonProcess) -> None:
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    engines = daemon.engines().values()
    for engine in engines:
        os.kill(engine, signal.SIGSTOP)
    try:
        (away,) = daemon.call("GET", "/v1/deployables/shop/standstill")
    finally:
        for engine in engines:
            os.kill(engine, signal.SIGCONT)
    assert away["rule"] == "ENGINE_AWAY"
    assert away["next"]
    job = daemon.call("DELETE", "/v1/deployables/shop", 202)["job"]
    until(lambda: daemon.call("GET", f"/v1/jobs/{job}")["state"] == "done", "deleted")


def test_a_bad_document_changes_nothing_and_tells_everything(daemon: DaemonProcess) -> None:
    bad = manifest("shop").replace("image: bookworm", "image: none").replace("monitor: 10s", "monitor: soon")
    response = daemon.client.post("/v1/deployables", params={"file": "my.yaml"}, content=bad)
    assert response.status_code == 422
    problems = response.json()["errors"]
    assert len(problems) >= 4
    assert all(one["file"] == "my.yaml" and one["line"] and one["path"] for one in problems)
    assert code(daemon.client.post("/v1/deployables", content=b"x", headers={"Content-Type": "text/csv"})) == (
        415,
        "UNKNOWN_TYPE",
    )
    assert code(daemon.client.post("/v1/deployables", content=b" " * 9_000_000)) == (413, "TOO_LARGE")
    chunks = (b" " * 65536 for _ in range(200))
    assert code(daemon.client.post("/v1/deployables", content=chunks)) == (413, "TOO_LARGE")
    assert daemon.call("GET", "/v1/deployables") == []


def test_exec_and_console(daemon: DaemonProcess) -> None:
    daemon.apply(manifest("tools"))
    daemon.running("tools")
    path = "/v1/deployables/tools/assemblies/web"
    body = {"argv": ["echo", "$HOME; x"], "stdin": base64.b64encode(b"\x00in").decode(), "timeout": 5}
    result = daemon.call("POST", f"{path}/exec", 200, json=body)
    assert base64.b64decode(result["stdout"]) == b"echo $HOME; x\x00in"
    assert result["returncode"] == 0
    assert daemon.client.get(f"{path}/console").content == b"login: \xff\n"
    assert code(daemon.client.post(f"{path}/exec", json={"argv": ["x"], "stdin": "%%"})) == (422, "INVALID_REQUEST")
    assert daemon.client.post(f"{path}/exec", json={"argv": []}).status_code == 422
    assert code(daemon.client.post("/v1/deployables/tools/assemblies/none/exec", json={"argv": ["x"]})) == (
        404,
        "NO_SUCH_ASSEMBLY",
    )
    assert code(daemon.client.post(f"{path}/exec", json={"argv": ["die"]})) == (503, "ENGINE_AWAY")
    daemon.running("tools")


def test_the_librarys_acceptance_script(daemon: DaemonProcess) -> None:
    call = daemon.call
    job = call("POST", "/v1/jeos", 202, json={"name": "trixie", "arch": "x86_64"})["job"]
    assert call("POST", "/v1/jeos", 202, json={"name": "trixie", "arch": "x86_64"})["job"] == job
    assert next(one for one in call("GET", "/v1/jeos") if one["name"] == "trixie")["state"] == "building"
    until(lambda: call("GET", f"/v1/jobs/{job}")["state"] == "done", "the JEOS is built")
    call("POST", "/v1/assemblies", 201, json={"name": "assy1", "jeos": "trixie", "arch": "x86_64"})
    call("POST", "/v1/assemblies/assy1/clone", 201, json={"to": "assy2"})
    for name in ("assy1", "assy2"):
        call("POST", f"/v1/assemblies/{name}/resources", 201, json={"name": "httpd", "template": "httpd"})
    call("POST", "/v1/deployables", 200, params={"empty": True}, json={"name": "dep1"})
    assert daemon.state("dep1") == "stopped"
    for name in ("assy1", "assy2"):
        call("POST", "/v1/deployables/dep1/assemblies", 202, json={"assembly": name})
    assert code(daemon.client.post("/v1/deployables/dep1/assemblies", json={"assembly": "assy1"})) == (
        409,
        "ASSEMBLY_EXISTS",
    )
    call("POST", "/v1/deployables/dep1/start", 202)
    daemon.running("dep1")
    assert set(daemon.guest_files("dep1")) == {"dep1.assy1", "dep1.assy2"}
    call("PUT", "/v1/assemblies/assy1/resources/httpd/escalation", 204, json={"failures": 7, "period": 70})
    text = daemon.client.get("/v1/deployables/dep1/manifest", params={"format": "json"}).json()
    assert text["assemblies"]["assy1"]["resources"]["httpd"]["escalation"]["failures"] == 7, "held by reference"
    assert code(daemon.client.delete("/v1/assemblies/assy1")) == (409, "ASSEMBLY_IN_USE")
    assert code(daemon.client.delete("/v1/jeos/trixie/x86_64")) == (409, "JEOS_IN_USE")
    assert code(daemon.client.post("/v1/assemblies", json={"name": "a", "jeos": "F14"}))[0] in (404, 422)
    assert code(daemon.client.post("/v1/assemblies/assy1/resources", json={"name": "x", "template": "nope"}))[0] in (
        404,
        422,
    )
    call("DELETE", "/v1/deployables/dep1/assemblies/assy2", 202)
    until(lambda: set(daemon.guest_files("dep1")) == {"dep1.assy1"}, "its guest goes")
    call("DELETE", "/v1/assemblies/assy2", 204)
    job = call("DELETE", "/v1/deployables/dep1", 202)["job"]
    until(lambda: call("GET", f"/v1/jobs/{job}")["state"] == "done", "deleted")
    assert [one["deployables"] for one in call("GET", "/v1/assemblies")] == [[]]
    assert any(one["name"] == "httpd" for one in call("GET", "/v1/templates"))


def frames(daemon: DaemonProcess, headers: dict[str, str], query: dict[str, object], count: int) -> list[dict]:
    found: list[dict] = []
    with daemon.client.stream("GET", "/v1/events/stream", headers=headers, params=query) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                if len(found) == count:
                    break
    return found


def test_stream_resumes_without_gap_or_repetition(daemon: DaemonProcess) -> None:
    daemon.apply(manifest("streamed"))
    daemon.running("streamed")
    query = {"deployable": "streamed", "type": "flood"}
    start = daemon.call("GET", "/v1/events", params={"newest": True, "limit": 1})["next"]
    path = "/v1/deployables/streamed/assemblies/web/exec"
    body = {"argv": ["flood", "300"]}
    sender = threading.Thread(
        target=lambda: httpx2.post(
            f"{daemon.client.base_url}{path}", headers=daemon.client.headers, json=body, timeout=PATIENCE
        )
    )
    sender.start()
    first = frames(daemon, {}, {**query, "after": start}, 120)
    second = frames(daemon, {"Last-Event-ID": first[-1]["id"]}, query, 180)
    sender.join()
    assert [one["data"]["reason"] for one in (*first, *second)] == [str(number) for number in range(300)]
    assert daemon.client.get("/v1/events/stream", headers={"Last-Event-ID": "x"}).status_code == 422


def test_a_page_of_another_name_can_not_speak_to_us(daemon: DaemonProcess) -> None:
    for host in ("evil.example", "evil.example:8780", "127.0.0.1.evil.example", "[::1", ""):
        response = daemon.client.get("/healthz", headers={"Host": host})
        assert response.status_code in (400, 421), host
    for host in ("localhost:1", "127.0.0.1", "[::1]:8780", "LOCALHOST"):
        assert daemon.client.get("/healthz", headers={"Host": host}).status_code == 200, host


def test_silent_and_garbled_clients_harm_nobody(daemon: DaemonProcess) -> None:
    port = daemon.client.base_url.port
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    held[0].sendall(b"POST /v1/deployables HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf")
    held[1].sendall(b"\x16\x03\x01" + b"\x00" * 500)
    held[2].sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
    assert daemon.client.get("/healthz").status_code == 200
    held[-1].setblocking(False)
    with pytest.raises(BlockingIOError):  # it is still there and was not waited for
        held[-1].recv(1)
    for one in held:
        one.close()


def test_doctor_statistics_infrastructures_metrics(daemon: DaemonProcess) -> None:
    assert {one["state"] for one in daemon.call("GET", "/v1/doctor")} <= {"ok", "warning", "missing"}
    assert {one["slot"] for one in daemon.call("GET", "/v1/statistics")["engines"]} == {"0", "1"}
    assert daemon.call("GET", "/v1/infrastructures")[0]["name"] == "lxc"
    text = daemon.client.get("/metrics").text
    for name in (
        "pcloud_deployables{",
        'pcloud_process_private_bytes{process="cped"}',
        "pcloud_recovery_seconds",
        "pcloud_store_failing 0.0",
    ):
        assert name in text


_texts = st.text(max_size=40) | st.sampled_from(
    ["..", "shop", "\0", "é" * 60, "a" * 500, "%2e%2e", "'; DROP TABLE events"]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def operations(daemon: DaemonProcess) -> list[tuple[str, str]]:
    document = daemon.client.get("/openapi.json").json()
    found = [(method.upper(), path) for path, item in document["paths"].items() for method in item]
    assert len(found) > 40
    return [one for one in found if one[1] not in ("/v1/shutdown", "/v1/events/stream")]


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_input_yields_a_500(daemon: DaemonProcess, operations: list[tuple[str, str]], data: st.DataObject) -> None:
    """Every operation of the OpenAPI document with arbitrary names, queries and bodies: a documented answer, never a 500."""
    method, path = data.draw(st.sampled_from(operations))
    while "{" in path:
        head, _, rest = path.partition("{")
        word = data.draw(_texts.filter(lambda text: text not in ("", ".", "..")))
        path = head + "".join(f"%{byte:02x}" for byte in word.encode("utf-8", "replace")) + rest.partition("}")[2]
    query = data.draw(
        st.dictionaries(st.sampled_from(["after", "limit", "type", "format", "start", "newest", "file"]), _texts)
    )
    body = data.draw(st.none() | _json.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
    kind = data.draw(st.sampled_from(["application/json", "application/yaml"]))
    response = daemon.client.request(method, path, params=query, content=body, headers={"Content-Type": kind})
    assert response.status_code < 500 or response.status_code == 503, (method, path, query, body, response.text)
    if response.status_code >= 400:
        assert response.json()["errors"][0]["code"]


def test_a_client_may_ask_every_five_seconds_on_one_connection(daemon: DaemonProcess) -> None:
    """As `openstack … --wait` does. A server that ends idle connections by then resets it now and then."""
    place = daemon.client.base_url
    with socket.create_connection((place.host, place.port or 80), 60) as connection:
        for again in (True, False):
            connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {place.host}:{place.port}\r\n\r\n".encode())
            answer = b""
            while b"ok\n" not in answer:
                piece = connection.recv(4096)
                assert piece, "closed"
                answer += piece
            assert not again or not select.select([connection], [], [], 6)[0], "closed while idle"
