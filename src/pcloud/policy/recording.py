"""The state before a decision as the journal keeps it: compact, and without anybody's secrets. Pure.

Of a secret parameter a keyed digest is kept instead of the value; the key lives and dies with the process, so that the
digest tells nothing. What a guest is made from (files, packages, commands) does not matter to a decision and is left out.
Digests of what services were started with are made to fit, so that the same decision comes out.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib

import msgspec
from msgspec.structs import replace

from pcloud.model.deployable import Assembly, Parameter, Resource
from pcloud.policy.definition import configure_digest, service_digest
from pcloud.policy.state import Service, State

_KEY = os.urandom(32)
MAX_BYTES = 64 * 1024 * 1024


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision was made from."""

    state: State
    now: float


def pack(state: State, now: float) -> str:
    """Return the text that the journal keeps."""
    content = msgspec.msgpack.encode(Snapshot(state=redact(state), now=now))
    return base64.b64encode(zlib.compress(content, 6)).decode()


def unpack(text: str) -> Snapshot:
    """Return what `pack` was given, without its secrets; ValueError when it is none."""
    try:
        expander = zlib.decompressobj()
        content = expander.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
        if expander.unconsumed_tail:
            raise ValueError(f"a snapshot is larger than {MAX_BYTES} bytes")
        return msgspec.msgpack.decode(content, type=Snapshot)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"this is no snapshot: {error}") from error


def redact(state: State) -> State:
    """Return a state without secrets that leads to the same decision."""
    hidden = replace(
        state,
        deployable=replace(state.deployable, assemblies=tuple(_assembly(a) for a in state.deployable.assemblies)),
        leaving=tuple(_assembly(a) for a in state.leaving),
        leaving_resources={k: tuple(_resource(r) for r in v) for k, v in state.leaving_resources.items()},
        memory=replace(state.memory, started={}),  # only folding reads it, deciding does not
    )
    services = {
        subject: replace(service, definition=None, digest=_digest(state, hidden, subject, service))
        for subject, service in state.services.items()
    }
    return replace(hidden, services=services)


def _digest(state: State, hidden: State, subject: str, service: Service) -> str:
    """Return the digest that compares to the redacted definition as the real one does to the real definition."""
    if not service.digest:
        return ""
    real, kept = _wanted(state, subject), _wanted(hidden, subject)
    return (kept or "") if real == service.digest else service.digest


def _wanted(state: State, subject: str) -> str | None:
    assembly, _, name = subject.removesuffix("!configure").partition("/")
    for candidate in state.assemblies():
        for resource in state.resources(candidate):
            if candidate.name == assembly and resource.name == name:
                return (configure_digest if subject.endswith("!configure") else service_digest)(state, resource)
    return None


def _assembly(assembly: Assembly) -> Assembly:
    return replace(
        assembly, packages=(), files=(), file_attributes=(), commands=(),
        resources=tuple(_resource(r) for r in assembly.resources),
    )  # fmt: skip


def _resource(resource: Resource) -> Resource:
    return replace(resource, parameters=tuple(_parameter(p) for p in resource.parameters))


def _parameter(parameter: Parameter) -> Parameter:
    if not parameter.secret or not isinstance(parameter.value, str):
        return parameter
    digest = hashlib.blake2b(parameter.value.encode(), key=_KEY, digest_size=12).hexdigest()
    return replace(parameter, value=f"secret:{digest}")
