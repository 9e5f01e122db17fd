"""The API's operations as methods of one synchronous object: `Client`.

A method is one request, except `wait_job` and `follow`. Names go into paths quoted. Errors: `pcloud.client.errors`.
Concurrency: thread-safe as far as `Connection` is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event as Flag
from typing import Any, BinaryIO
from urllib.parse import quote

import msgspec

from pcloud.client import records
from pcloud.client.errors import BadReply, TimedOut, Unreachable
from pcloud.client.events import SILENCE, follow
from pcloud.client.http import REPLY_TIMEOUT, Connection
from pcloud.client.settings import Settings, load
from pcloud.client.stacks import Stacks
from pcloud.model.errors import NotFound, PcloudError
from pcloud.model.status import DeployableStatus, Standstill

IMPORT_TIMEOUT = 900.0
"""Seconds that the check and conversion of an imported image may take."""
CONTENT_TYPES = {"yaml": "application/yaml", "xml": "application/xml", "json": "application/json"}


class Client:
    """A connection to one daemon; a context manager that closes it."""

    def __init__(self, settings: Settings, *, timeout: float = REPLY_TIMEOUT) -> None:
        self.settings = settings
        self.connection = Connection(settings, timeout=timeout)
        self.stacks = Stacks(self.connection)

    @classmethod
    def from_environment(cls) -> Client:
        """Make a client from $PCLOUD_URL, $PCLOUD_TOKEN and $PCLOUD_HOME."""
        return cls(load())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    # --- the daemon

    def version(self) -> records.Version:
        """Return the daemon's version."""
        return self.connection.call("GET", "/v1/version", records.Version)

    def healthy(self) -> bool:
        """Whether the daemon says that it is well, if only to stand by. Unreachable when there is none."""
        try:
            self.connection.call("GET", "/healthz", None)
        except Unreachable:
            raise
        except PcloudError as error:
            return error.code == "STANDBY"
        return True

    def doctor(self) -> list[records.Check]:
        """What the daemon's machine can and can not do."""
        return self.connection.call("GET", "/v1/doctor", list[records.Check], timeout=60)

    def infrastructures(self) -> list[Any]:
        """The infrastructures that the daemon knows."""
        return self.connection.call("GET", "/v1/infrastructures", list[Any])

    def shutdown(self, *, engines: bool, guests: bool) -> None:
        """End the daemon; `engines`: and its engine processes; `guests`: stop every deployable in order before."""
        self.connection.call("POST", "/v1/shutdown", None, body={"engines": engines, "guests": guests})

    # --- deployables

    def deployables(self) -> list[records.DeployableSummary]:
        """List all deployables."""
        return self.connection.call("GET", "/v1/deployables", list[records.DeployableSummary])

    def apply(
        self, manifest: bytes, *, form: str, file: str = "", start: bool = True, dry_run: bool = False
    ) -> records.Applied:
        """Validate, store and (with `start`) start a manifest; `form` is `yaml`, `xml` or `json`. All or nothing."""
        return self.connection.call(
            "POST",
            "/v1/deployables",
            records.Applied,
            query={"start": start, "file": file, "dry_run": dry_run},
            content=manifest,
            content_type=CONTENT_TYPES[form],
            timeout=120,
        )

    def create_empty(
        self, name: str, *, infrastructure: str, username: str = "", monitor: str = "am"
    ) -> records.Applied:
        """Make a deployable without assemblies, not started."""
        body = {"name": name, "infrastructure": infrastructure, "username": username, "monitor": monitor}
        return self.connection.call("POST", "/v1/deployables", records.Applied, query={"empty": True}, body=body)

    def status(self, name: str) -> DeployableStatus:
        """Return the state of one deployable with all that is in it."""
        return self.connection.call("GET", _path("deployables", name), DeployableStatus)

    def manifest(self, name: str, *, form: str = "yaml") -> bytes:
        """Return the document of one deployable."""
        return self.connection.call("GET", _path("deployables", name, "manifest"), None, query={"format": form})

    def delete(self, name: str, *, force: bool = False) -> str:
        """Stop a deployable and remove all of it; return the id of the job that does so. One that belongs to a stack only
        with `force`."""
        query = {"force": True} if force else None  # an older daemon does not know it
        return self.connection.call("DELETE", _path("deployables", name), records.JobRef, query=query).job

    def command(self, name: str, action: str, **arguments: str) -> None:
        """Ask for `start`, `stop`, `reload`, `recover`, `pause` or `resume`."""
        self.connection.call("POST", _path("deployables", name, action), None, body=arguments or None)

    def explain(self, name: str, *, assembly: str = "", resource: str = "", limit: int = 20) -> list[dict[str, Any]]:
        """Return the journalled decisions, newest first, as the engine wrote them (`records.Decision` reads one)."""
        return self.connection.call(
            "GET",
            _path("deployables", name, "explain"),
            list[dict[str, Any]],
            query={"assembly": assembly, "resource": resource, "limit": limit},
        )

    def standstill(self, name: str, *, assembly: str = "", resource: str = "") -> list[Standstill]:
        """Return what is not being done at the moment, and why."""
        return self.connection.call(
            "GET",
            _path("deployables", name, "standstill"),
            list[Standstill],
            query={"assembly": assembly, "resource": resource},
        )

    def simulate(self, name: str, faults: list[str], files: dict[str, str]) -> dict[str, Any]:
        """Return what faults and changes would do to a running deployable; `files` holds what `apply FILE` names."""
        return self.connection.call(
            "POST",
            _path("deployables", name, "simulate"),
            dict[str, Any],
            body={"faults": faults, "files": files},
            timeout=180,
        )

    def drill(
        self,
        name: str,
        fault: str,
        *,
        assembly: str = "",
        resource: str = "",
        budget: float = 60.0,
        force: bool = False,
        probes: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Do one real fault and return the report once all runs again or `budget` seconds are over; the pages `probes` are
        asked for meanwhile."""
        body = {"fault": fault, "assembly": assembly, "resource": resource, "budget": budget, "force": force}
        if probes:  # an older daemon does not know them
            body["probes"] = list(probes)
        return self.connection.call(
            "POST", _path("deployables", name, "drills"), dict[str, Any], body=body, timeout=budget + 120
        )

    def drills(self, name: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """Return the reports of the newest drills, newest first."""
        return self.connection.call(
            "GET", _path("deployables", name, "drills"), list[dict[str, Any]], query={"limit": limit}
        )

    def replay(self, name: str, *, limit: int = 100) -> list[dict[str, Any]]:
        """Decide the newest journalled decisions again; return a verdict for each, newest first."""
        path = _path("deployables", name, "replay")
        return self.connection.call("GET", path, list[dict[str, Any]], query={"limit": limit}, timeout=180)

    def deployable_assemblies(self, name: str) -> list[records.DeployableAssembly]:
        """List the assemblies of a deployable."""
        return self.connection.call("GET", _path("deployables", name, "assemblies"), list[records.DeployableAssembly])

    def add_assembly(self, name: str, assembly: str) -> None:
        """Put an assembly of the library into a deployable; at once when it runs."""
        self.connection.call("POST", _path("deployables", name, "assemblies"), None, body={"assembly": assembly})

    def remove_assembly(self, name: str, assembly: str) -> None:
        """Take an assembly out of a deployable; its guest goes when it runs."""
        self.connection.call("DELETE", _path("deployables", name, "assemblies", assembly), None)

    def execute(
        self, name: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> records.ExecReply:
        """Run a command in a guest, without a shell."""
        return self.connection.call(
            "POST",
            _path("deployables", name, "assemblies", assembly, "exec"),
            records.ExecReply,
            body={"argv": list(argv), "stdin": stdin, "timeout": timeout},
            timeout=timeout + REPLY_TIMEOUT,
        )

    def console(self, name: str, assembly: str) -> bytes:
        """Return the newest part of a guest's console log."""
        return self.connection.call("GET", _path("deployables", name, "assemblies", assembly, "console"), None)

    # --- events

    def events(
        self, filters: Mapping[str, str] | None = None, *, after: str = "", limit: int = 100, newest: bool = False
    ) -> records.EventPage:
        """Return one page of the log; `filters` are `deployable`, `assembly`, `resource`, `type`."""
        query = {"after": after, "limit": limit, "newest": newest or None, **(filters or {})}
        return self.connection.call("GET", "/v1/events", records.EventPage, query=query)

    def cursor(self) -> str:
        """Return the log's present end, to follow from."""
        return str(self.events(limit=1, newest=True).next)

    def follow(
        self,
        filters: Mapping[str, str] | None = None,
        *,
        after: str,
        stop: Flag | None = None,
        on_lost: Callable[[PcloudError], None] | None = None,
        on_back: Callable[[], None] | None = None,
        silence: float = SILENCE,
        persistent: bool = False,
    ) -> Iterator[records.CloudEvent]:
        """Yield events as they happen; see `pcloud.client.events.follow`."""
        return follow(
            self.connection,
            after=after,
            query=filters,
            stop=stop,
            on_lost=on_lost,
            on_back=on_back,
            silence=silence,
            persistent=persistent,
        )

    # --- images

    def jeos(self) -> list[records.Jeos]:
        """List the images that exist or can be built."""
        return self.connection.call("GET", "/v1/jeos", list[records.Jeos])

    def create_jeos(self, name: str, arch: str) -> str:
        """Build an image; return the job's id."""
        return self.connection.call("POST", "/v1/jeos", records.JobRef, body={"name": name, "arch": arch}).job

    def import_image(self, name: str, arch: str, *, digest: str, like: str, file: BinaryIO, size: int) -> records.Jeos:
        """Send a disk image made by others (`size` bytes); it is taken over when its digest is right."""
        path, query = _path("jeos", name, arch), {"digest": digest, "like": like}
        return self.connection.upload(path, records.Jeos, query=query, file=file, size=size, timeout=IMPORT_TIMEOUT)

    def delete_jeos(self, name: str, arch: str) -> None:
        """Remove an image that no assembly uses."""
        self.connection.call("DELETE", _path("jeos", name, arch), None)

    # --- the library of assemblies

    def assemblies(self) -> list[records.LibraryAssembly]:
        """List the assemblies of the library."""
        return self.connection.call("GET", "/v1/assemblies", list[records.LibraryAssembly])

    def create_assembly(self, name: str, jeos: str, arch: str) -> str:
        """Make an assembly from an image; return the id of the job that goes on, or an empty string."""
        return self._job("POST", "/v1/assemblies", {"name": name, "jeos": jeos, "arch": arch})

    def clone_assembly(self, name: str, to: str) -> str:
        """Make another assembly like one, with an identity of its own; returns as `create_assembly`."""
        return self._job("POST", _path("assemblies", name, "clone"), {"to": to})

    def delete_assembly(self, name: str) -> None:
        """Remove an assembly that is in no deployable."""
        self.connection.call("DELETE", _path("assemblies", name), None)

    def assembly_resources(self, name: str) -> list[records.LibraryResource]:
        """List the resources of an assembly."""
        return self.connection.call("GET", _path("assemblies", name, "resources"), list[records.LibraryResource])

    def add_resource(self, assembly: str, name: str, template: str) -> str:
        """Add a resource made from a template to an assembly; returns as `create_assembly`."""
        return self._job("POST", _path("assemblies", assembly, "resources"), {"name": name, "template": template})

    def remove_resource(self, assembly: str, name: str) -> None:
        """Remove a resource from an assembly."""
        self.connection.call("DELETE", _path("assemblies", assembly, "resources", name), None)

    def set_escalation(self, assembly: str, resource: str | None, *, failures: int, period: float) -> None:
        """Set when failures of an assembly (or, given its name, of a resource of it) escalate."""
        owner = ("assemblies", assembly) if resource is None else ("assemblies", assembly, "resources", resource)
        body = {"failures": failures, "period": period}
        self.connection.call("PUT", _path(*owner, "escalation"), None, body=body)

    def templates(self) -> list[records.Template]:
        """List the resource templates."""
        return self.connection.call("GET", "/v1/templates", list[records.Template])

    # --- jobs

    def jobs(self) -> list[records.Job]:
        """List the jobs, running and ended."""
        return self.connection.call("GET", "/v1/jobs", list[records.Job])

    def job(self, identity: str) -> records.Job:
        """Return one job."""
        return self.connection.call("GET", _path("jobs", identity), records.Job)

    def cancel_job(self, identity: str) -> None:
        """Ask a job to end."""
        self.connection.call("DELETE", _path("jobs", identity), None)

    def wait_job(
        self,
        identity: str,
        *,
        timeout: float | None = None,
        interval: float = 0.25,
        on_progress: Callable[[records.Job], None] | None = None,
    ) -> records.Job:
        """Return the job once it is no longer running; `on_progress` sees it each time. TimedOut after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = self.job(identity)
            if on_progress is not None:
                on_progress(job)
            if job.state != "running":
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise TimedOut.of("TIMED_OUT", f"{job.kind} {job.subject} is not done after {timeout:g} s; it goes on")
            time.sleep(interval)

    # --- tokens

    def tokens(self) -> list[records.Token]:
        """List the tokens, without their secrets."""
        return self.connection.call("GET", "/v1/tokens", list[records.Token])

    def create_token(self, name: str, role: str) -> records.Token:
        """Make a token; the answer is the only place where its secret is ever shown."""
        return self.connection.call("POST", "/v1/tokens", records.Token, body={"name": name, "role": role})

    def delete_token(self, name: str) -> None:
        """Make a token invalid at once."""
        self.connection.call("DELETE", _path("tokens", name), None)

    def _job(self, method: str, path: str, body: object) -> str:
        """Send a request whose answer may name a job."""
        raw = self.connection.call(method, path, None, body=body, timeout=120)
        try:
            return msgspec.json.decode(raw, type=records.JobRef).job if raw.strip() else ""
        except msgspec.DecodeError as error:
            raise BadReply.of("BAD_REPLY", f"the answer to {method} {path} can not be read: {error}") from None


def _path(*parts: str) -> str:
    """Join path segments under /v1, each quoted. NotFound for what would be normalised away on the road: a request
    about `..` must not become one about something else."""
    for part in parts:
        if part in {"", ".", ".."}:
            raise NotFound.of("NOT_FOUND", f"{part!r} is no name of anything")
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
