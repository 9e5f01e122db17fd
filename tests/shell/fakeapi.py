"""A stand-in for the daemon's API, in memory, for fast tests of the client and the shells.

It keeps the contract of `/v1` (names, statuses, shapes) and nothing of an engine: `Fleet` is what a test arranges, and what
started deployables become after `delay` seconds. Concurrency: uvicorn in a thread of its own; tests change `Fleet` between
requests, under its lock where it matters.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route

from pcloud.api import dashboard
from tests.ports import free_port

TOKEN = "test-token"


def refusal(status: int, *problems: dict[str, Any]) -> JSONResponse:
    return JSONResponse({"errors": list(problems)}, status_code=status)


def missing(kind: str, name: str) -> JSONResponse:
    return refusal(404, {"code": "NOT_FOUND", "message": f"there is no {kind} {name!r}"})


@dataclass
class Fleet:
    """All that the stand-in knows."""

    deployables: dict[str, dict[str, Any]] = field(default_factory=dict)
    assemblies: dict[str, dict[str, Any]] = field(default_factory=dict)
    jeos: dict[tuple[str, str], str] = field(default_factory=lambda: {("bookworm", "x86_64"): "absent"})
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=lambda: {"admin": "admin"})
    decisions: list[dict[str, Any]] = field(default_factory=list)
    standstill: list[dict[str, Any]] = field(default_factory=list)
    drills: list[dict[str, Any]] = field(default_factory=list)
    outcome: str = "running"
    """What a started deployable becomes."""
    delay: float = 0.1
    job_seconds: float = 0.3
    calls: list[tuple[str, str]] = field(default_factory=list)
    executed: list[dict[str, Any]] = field(default_factory=list)
    shutdowns: list[dict[str, Any]] = field(default_factory=list)
    on_shutdown: Callable[[], None] | None = None

    def emit(
        self, kind: str, subject: str, state: str = "", reason: str = "", severity: str = "info", **more: Any
    ) -> None:
        names = [*subject.split("/"), "", ""][:3]
        data = dict(zip(("deployable", "assembly", "resource"), names, strict=True))
        self.events.append(
            {
                "specversion": "1.0",
                "id": str(len(self.events) + 1),
                "source": "/pcloud/test",
                "type": f"org.pacemaker-cloud.{kind}",
                "subject": subject,
                "time": datetime.now(UTC).isoformat(),
                "datacontenttype": "application/json",
                "data": {**data, "state": state, "reason": reason, "severity": severity, **more},
            }
        )

    def add(self, name: str, assemblies: dict[str, list[str]], state: str = "stopped") -> None:
        self.deployables[name] = {
            "name": name,
            "infrastructure": "lxc",
            "target": "started",
            "paused": False,
            "assemblies": assemblies,
            "state": state,
            "reason": "",
            "since": time.time(),
            "becomes": None,
            "states": {},
            "document": {"deployable": name},
        }

    def settle(self, found: dict[str, Any]) -> dict[str, Any]:
        """Let what was started long enough ago be what it becomes."""
        if found["becomes"] and time.time() - found["since"] >= self.delay:
            found["state"], found["becomes"], found["since"] = found["becomes"], None, time.time()
            found["reason"] = "the resource db/mysqld does not start" if found["state"] == "failed" else ""
            self.emit("deployable.state", found["name"], found["state"], final=found["state"] == "failed")
        return found

    def begin(self, found: dict[str, Any], state: str, becomes: str) -> None:
        found.update(state=state, becomes=becomes, since=time.time(), reason="")

    def job(self, kind: str, subject: str, *, fails: str = "") -> str:
        identity = f"job-{len(self.jobs) + 1}"
        self.jobs[identity] = {"kind": kind, "subject": subject, "begun": time.time(), "fails": fails}
        return identity

    def job_record(self, identity: str) -> dict[str, Any]:
        job = self.jobs[identity]
        done = min((time.time() - job["begun"]) / self.job_seconds, 1.0)
        state = "running" if done < 1 else "failed" if job["fails"] else "done"
        if state == "done" and job["kind"] == "jeos.build":
            name, _, arch = job["subject"].partition("/")
            self.jeos[name, arch] = "ready"
        return {
            "id": identity,
            "kind": job["kind"],
            "subject": job["subject"],
            "state": state,
            "progress": done,
            "message": job["fails"] or "unpacking",
            "errors": [{"code": "MIRROR", "message": job["fails"]}] if state == "failed" else [],
        }


class Api:
    """The routes."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.closing = False

    def app(self) -> Starlette:
        routes = [
            ("GET", "/healthz", self.health),
            ("GET", "/v1/version", self.version),
            ("GET", "/v1/doctor", self.doctor),
            ("POST", "/v1/shutdown", self.shutdown),
            ("GET", "/v1/infrastructures", self.infrastructures),
            ("GET", "/v1/deployables", self.list_deployables),
            ("POST", "/v1/deployables", self.apply),
            ("GET", "/v1/deployables/{name}", self.status),
            ("DELETE", "/v1/deployables/{name}", self.delete),
            ("GET", "/v1/deployables/{name}/manifest", self.manifest),
            ("GET", "/v1/deployables/{name}/explain", self.explain),
            ("GET", "/v1/deployables/{name}/standstill", self.standstill),
            ("POST", "/v1/deployables/{name}/simulate", self.simulate),
            ("POST", "/v1/deployables/{name}/drills", self.drill),
            ("GET", "/v1/deployables/{name}/drills", self.drills),
            ("GET", "/v1/deployables/{name}/replay", self.replay),
            ("GET", "/v1/deployables/{name}/assemblies", self.members),
            ("POST", "/v1/deployables/{name}/assemblies", self.add_member),
            ("DELETE", "/v1/deployables/{name}/assemblies/{assembly}", self.remove_member),
            ("POST", "/v1/deployables/{name}/assemblies/{assembly}/exec", self.execute),
            ("GET", "/v1/deployables/{name}/assemblies/{assembly}/console", self.console),
            ("POST", "/v1/deployables/{name}/{action}", self.action),
            ("GET", "/v1/events", self.events),
            ("GET", "/v1/events/stream", self.stream),
            ("GET", "/v1/jeos", self.list_jeos),
            ("POST", "/v1/jeos", self.create_jeos),
            ("DELETE", "/v1/jeos/{name}/{arch}", self.delete_jeos),
            ("GET", "/v1/assemblies", self.list_assemblies),
            ("POST", "/v1/assemblies", self.create_assembly),
            ("DELETE", "/v1/assemblies/{name}", self.delete_assembly),
            ("POST", "/v1/assemblies/{name}/clone", self.clone),
            ("GET", "/v1/assemblies/{name}/resources", self.list_resources),
            ("POST", "/v1/assemblies/{name}/resources", self.add_resource),
            ("DELETE", "/v1/assemblies/{name}/resources/{resource}", self.remove_resource),
            ("PUT", "/v1/assemblies/{name}/escalation", self.escalation),
            ("PUT", "/v1/assemblies/{name}/resources/{resource}/escalation", self.escalation),
            ("GET", "/v1/templates", self.templates),
            ("GET", "/v1/jobs", self.list_jobs),
            ("GET", "/v1/jobs/{id}", self.get_job),
            ("GET", "/v1/tokens", self.list_tokens),
            ("POST", "/v1/tokens", self.create_token),
            ("DELETE", "/v1/tokens/{name}", self.delete_token),
        ]
        listed: list[BaseRoute] = [
            Route(path, self.guarded(handler), methods=[method]) for method, path, handler in routes
        ]
        # Where a browser tells a test how far it is.
        listed.append(Route("/ready/{number}", self.ready))
        if dashboard.STATIC.is_dir():
            listed.append(Mount("/ui", dashboard.files()))
        return Starlette(routes=listed)

    def guarded(self, handler: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            self.fleet.calls.append((request.method, request.url.path))
            if request.url.path != "/healthz" and request.headers.get("authorization") != f"Bearer {TOKEN}":
                return refusal(401, {"code": "UNAUTHORIZED", "message": "no valid token"})
            response: Response = await handler(request)
            return response

        return endpoint

    async def ready(self, request: Request) -> Response:
        self.fleet.calls.append((request.method, request.url.path))
        return Response(status_code=204)

    async def health(self, _: Request) -> Response:
        return PlainTextResponse("ok")

    async def version(self, _: Request) -> Response:
        return JSONResponse({"version": "0.1.0", "api": "v1", "host": "testhost"})

    async def doctor(self, _: Request) -> Response:
        return JSONResponse([{"check": "lxc", "state": "ok", "detail": "5.0.2", "hint": ""}])

    async def shutdown(self, request: Request) -> Response:
        self.fleet.shutdowns.append(await request.json())
        if self.fleet.on_shutdown:
            asyncio.get_running_loop().call_later(0.1, self.fleet.on_shutdown)
        return JSONResponse({}, status_code=202)

    async def infrastructures(self, _: Request) -> Response:
        return JSONResponse([{"name": "lxc", "capabilities": []}])

    # --- deployables

    def find(self, request: Request) -> dict[str, Any] | None:
        found = self.fleet.deployables.get(request.path_params["name"])
        return self.fleet.settle(found) if found else None

    async def list_deployables(self, _: Request) -> Response:
        rows = []
        for found in self.fleet.deployables.values():
            self.fleet.settle(found)
            row = {
                key: found[key] for key in ("name", "state", "reason", "infrastructure", "target", "paused", "since")
            }
            count = len(found["assemblies"])
            rows.append({**row, "assemblies": count, "running": count if found["state"] == "running" else 0})
        return JSONResponse(rows)

    async def apply(self, request: Request) -> Response:
        body = (await request.body()).decode()
        kind = request.headers["content-type"]
        if kind == "application/xml":
            match = re.search(r'<deployable[^>]*name="([^"]+)"', body)
            document: Any = {"deployable": match[1], "assemblies": {}} if match else None
        else:
            document = yaml.safe_load(body)
        if request.query_params.get("empty") == "true":
            if document["name"] in self.fleet.deployables:
                return refusal(409, {"code": "EXISTS", "message": f"{document['name']} exists already"})
            self.fleet.add(document["name"], {})
            self.fleet.deployables[document["name"]].update(target="stopped", infrastructure=document["infrastructure"])
            return JSONResponse({"name": document["name"], "created": True, "changed": []})
        if not isinstance(document, dict) or "deployable" not in document:
            file = request.query_params.get("file", "")
            return refusal(
                422,
                {
                    "code": "MISSING_FIELD",
                    "message": "deployable is missing",
                    "file": file,
                    "line": 1,
                    "hint": "name it",
                },
                {
                    "code": "BAD_TYPE",
                    "message": "assemblies is no mapping",
                    "file": file,
                    "line": 2,
                    "path": "assemblies",
                },
            )
        name = document["deployable"]
        old = self.fleet.deployables.get(name)
        changed = ["assemblies.web"] if old and old["document"] != document else []
        if request.query_params.get("dry_run") != "true":
            members = {
                key: list((value or {}).get("resources", {}))
                for key, value in (document.get("assemblies") or {}).items()
            }
            if old is None or changed:
                self.fleet.add(name, members)
                self.fleet.deployables[name]["document"] = document
                if request.query_params.get("start") != "false":
                    self.fleet.begin(self.fleet.deployables[name], "starting", self.fleet.outcome)
        return JSONResponse({"name": name, "created": old is None, "changed": changed})

    def whole(self, found: dict[str, Any]) -> dict[str, Any]:
        state = found["state"]
        return {
            **{key: found[key] for key in ("name", "state", "reason", "infrastructure", "target", "paused", "since")},
            "assemblies": [
                {
                    "name": name,
                    "state": state if state != "failed" else "running",
                    "address": f"10.0.3.{number}",
                    "resources": [
                        {"name": resource, "state": found["states"].get(f"{name}/{resource}", state)}
                        for resource in resources
                    ],
                }
                for number, (name, resources) in enumerate(found["assemblies"].items(), 2)
            ],
        }

    async def status(self, request: Request) -> Response:
        found = self.find(request)
        return JSONResponse(self.whole(found)) if found else missing("deployable", request.path_params["name"])

    async def manifest(self, request: Request) -> Response:
        found = self.find(request)
        if not found:
            return missing("deployable", request.path_params["name"])
        if request.query_params.get("format") == "json":
            return JSONResponse(found["document"])
        return PlainTextResponse(yaml.safe_dump(found["document"]))

    async def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        if self.fleet.deployables.pop(name, None) is None:
            return missing("deployable", name)
        return JSONResponse({"job": self.fleet.job("deployable.delete", name)}, status_code=202)

    async def action(self, request: Request) -> Response:
        found, action = self.find(request), request.path_params["action"]
        if not found:
            return missing("deployable", request.path_params["name"])
        if action in {"start", "reload", "recover"}:
            found["target"] = "started"
            self.fleet.begin(found, "starting", self.fleet.outcome)
        elif action == "stop":
            found["target"] = "stopped"
            self.fleet.begin(found, "running", "stopped")
        elif action in {"pause", "resume"}:
            found["paused"] = action == "pause"
        else:
            return missing("action", action)
        return JSONResponse(self.whole(found), status_code=202)

    async def explain(self, request: Request) -> Response:
        return JSONResponse(self.fleet.decisions[: int(request.query_params.get("limit", 20))])

    async def standstill(self, request: Request) -> Response:
        return JSONResponse(self.fleet.standstill)

    async def simulate(self, request: Request) -> Response:
        asked = await request.json()
        fault = asked["faults"][0]
        timeline = [
            {"seconds": 0.0, "kind": "fault", "subject": "", "text": fault, "why": "", "state": ""},
            {
                "seconds": 0.1,
                "kind": "action",
                "subject": "web",
                "text": "start guest",
                "why": "it died",
                "state": "done",
            },
            {"seconds": 0.6, "kind": "event", "subject": "web", "text": "running", "why": "it answers", "state": ""},
        ]
        report = {"timeline": timeline, "seconds": 0.6, "state": "running", "reason": "", "restarted": ["web"]}
        return JSONResponse({**report, "files": asked["files"]})

    async def drill(self, request: Request) -> Response:
        asked = await request.json()
        passed = asked["fault"] != "guest-killed"
        report = {
            "fault": asked["fault"], "subject": asked["assembly"], "deployable": "shop", "time": 1.0,
            "done": "it was killed",
            "passed": passed, "budget_s": asked["budget"], "detected_s": 0.05, "recovered_s": 0.5 if passed else None,
            "noticed": "its process exited", "restarted": ["web/httpd"], "state": "running",
            "reason": "all runs again after 0.5 s" if passed else "noticed, but not all ran again",
            "previous": {"count": 3, "detected_s": 0.04, "recovered_s": 0.2}, "slower": True,
            "probes": [
                {
                    "url": url, "asked": 9, "failed": number, "unanswered_s": 0.25 * number, "slowest_s": 0.125,
                    "answers": True, "error": "e",
                }
                for number, url in enumerate(asked.get("probes", ()))
            ],
        }  # fmt: skip
        self.fleet.drills.insert(0, report)
        return JSONResponse(report)

    async def drills(self, request: Request) -> Response:
        return JSONResponse(self.fleet.drills)

    async def replay(self, request: Request) -> Response:
        return JSONResponse(self.fleet.decisions)

    async def members(self, request: Request) -> Response:
        found = self.find(request)
        if not found:
            return missing("deployable", request.path_params["name"])
        return JSONResponse(
            [{"name": name, "state": found["state"], "image": "bookworm"} for name in found["assemblies"]]
        )

    async def add_member(self, request: Request) -> Response:
        found, name = self.find(request), (await request.json())["assembly"]
        if not found:
            return missing("deployable", request.path_params["name"])
        if name not in self.fleet.assemblies:
            return missing("assembly", name)
        found["assemblies"][name] = list(self.fleet.assemblies[name]["resources"])
        return JSONResponse({})

    async def remove_member(self, request: Request) -> Response:
        found = self.find(request)
        if not found or found["assemblies"].pop(request.path_params["assembly"], None) is None:
            return missing("assembly", request.path_params["assembly"])
        return Response(status_code=204)

    async def execute(self, request: Request) -> Response:
        body = await request.json()
        self.fleet.executed.append(body)
        given = base64.b64decode(body["stdin"])
        argv = body["argv"]
        code = int(argv[1]) if argv[0] == "exit" else 0
        reply = {"returncode": code, "stdout": base64.b64encode(given or b"out\n").decode()}
        return JSONResponse({**reply, "stderr": base64.b64encode(b"err\n").decode()})

    async def console(self, request: Request) -> Response:
        return PlainTextResponse("login: \x1b]0;evil\x07\n")

    # --- events

    async def events(self, request: Request) -> Response:
        query = request.query_params
        found = [event for event in self.fleet.events if self.wanted(event, request)]
        found = [event for event in found if int(event["id"]) > int(query.get("after") or 0)]
        limit = int(query.get("limit", 100))
        found = found[-limit:] if query.get("newest") == "true" else found[:limit]
        return JSONResponse({"events": found, "next": int(found[-1]["id"]) if found else len(self.fleet.events)})

    def wanted(self, event: dict[str, Any], request: Request) -> bool:
        names = ("deployable", "assembly", "resource")
        return all(
            event["data"][name] == request.query_params[name] for name in names if request.query_params.get(name)
        )

    async def stream(self, request: Request) -> Response:
        after = int(request.headers.get("last-event-id") or request.query_params.get("after") or 0)

        async def generate() -> AsyncIterator[str]:
            position = after
            yield ": hello\n\n"
            while not self.closing and not await request.is_disconnected():
                for event in self.fleet.events[position:]:
                    position = int(event["id"])
                    yield f"id: {position}\ndata: {json.dumps(event)}\n\n"
                await asyncio.sleep(0.02)

        return StreamingResponse(generate(), media_type="text/event-stream")

    # --- images, library, jobs, tokens

    async def list_jeos(self, _: Request) -> Response:
        return JSONResponse(
            [
                {"name": name, "arch": arch, "distribution": "debian", "state": state, "size": 0, "created": None}
                for (name, arch), state in self.fleet.jeos.items()
            ]
        )

    async def create_jeos(self, request: Request) -> Response:
        body = await request.json()
        if (body["name"], body["arch"]) not in self.fleet.jeos:
            return missing("image", body["name"])
        fails = "the mirror does not answer" if self.fleet.outcome == "failed" else ""
        return JSONResponse({"job": self.fleet.job("jeos.build", f"{body['name']}/{body['arch']}", fails=fails)}, 202)

    async def delete_jeos(self, request: Request) -> Response:
        name = request.path_params["name"]
        if any(found["jeos"] == name for found in self.fleet.assemblies.values()):
            return refusal(409, {"code": "IN_USE", "message": f"the image {name} is used by an assembly"})
        self.fleet.jeos[name, request.path_params["arch"]] = "absent"
        return Response(status_code=204)

    async def list_assemblies(self, _: Request) -> Response:
        return JSONResponse(
            [{**found, "resources": list(found["resources"])} for found in self.fleet.assemblies.values()]
        )

    async def create_assembly(self, request: Request) -> Response:
        body = await request.json()
        if body["name"] in self.fleet.assemblies:
            return refusal(409, {"code": "EXISTS", "message": f"{body['name']} exists already"})
        self.fleet.assemblies[body["name"]] = {**body, "resources": {}, "deployables": []}
        return JSONResponse({"name": body["name"]}, status_code=201)

    async def clone(self, request: Request) -> Response:
        name, to = request.path_params["name"], (await request.json())["to"]
        if name not in self.fleet.assemblies:
            return missing("assembly", name)
        self.fleet.assemblies[to] = {**self.fleet.assemblies[name], "name": to}
        return JSONResponse({"name": to}, status_code=201)

    async def delete_assembly(self, request: Request) -> Response:
        name = request.path_params["name"]
        return Response(status_code=204) if self.fleet.assemblies.pop(name, None) else missing("assembly", name)

    async def list_resources(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.fleet.assemblies:
            return missing("assembly", name)
        found = self.fleet.assemblies[name]["resources"]
        return JSONResponse([{"name": key, "template": value} for key, value in found.items()])

    async def add_resource(self, request: Request) -> Response:
        name, body = request.path_params["name"], await request.json()
        if name not in self.fleet.assemblies:
            return missing("assembly", name)
        found = self.fleet.assemblies[name]
        found["resources"] = {**found["resources"], body["name"]: body["template"]}
        return JSONResponse(body, status_code=201)

    async def remove_resource(self, request: Request) -> Response:
        found = self.fleet.assemblies.get(request.path_params["name"])
        if not found or found["resources"].pop(request.path_params["resource"], None) is None:
            return missing("resource", request.path_params["resource"])
        return Response(status_code=204)

    async def escalation(self, request: Request) -> Response:
        found = self.fleet.assemblies.get(request.path_params["name"])
        if not found:
            return missing("assembly", request.path_params["name"])
        found.setdefault("escalation", {})[request.path_params.get("resource", "")] = await request.json()
        return JSONResponse({})

    async def templates(self, _: Request) -> Response:
        return JSONResponse([{"name": "httpd", "description": "Apache's web server"}, {"name": "mysqld"}])

    async def list_jobs(self, _: Request) -> Response:
        return JSONResponse([self.fleet.job_record(identity) for identity in self.fleet.jobs])

    async def get_job(self, request: Request) -> Response:
        identity = request.path_params["id"]
        return (
            JSONResponse(self.fleet.job_record(identity)) if identity in self.fleet.jobs else missing("job", identity)
        )

    async def list_tokens(self, _: Request) -> Response:
        return JSONResponse([{"name": name, "role": role} for name, role in self.fleet.tokens.items()])

    async def create_token(self, request: Request) -> Response:
        body = await request.json()
        self.fleet.tokens[body["name"]] = body["role"]
        return JSONResponse({**body, "token": "secret-once"}, status_code=201)

    async def delete_token(self, request: Request) -> Response:
        name = request.path_params["name"]
        return Response(status_code=204) if self.fleet.tokens.pop(name, None) else missing("token", name)


class Running:
    """A stand-in that serves: its address, its fleet, and the way to end it."""

    def __init__(self, fleet: Fleet, *, port: int = 0) -> None:
        self.fleet = fleet
        self._api = Api(fleet)
        port = port or free_port()
        config = uvicorn.Config(self._api.app(), port=port, log_config=None, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="fake-api")
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        assert self._server.started
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._api.closing = True
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def serving(fleet: Fleet | None = None) -> Iterator[Running]:
    running = Running(fleet or Fleet())
    try:
        yield running
    finally:
        running.stop()
