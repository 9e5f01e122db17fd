"""What the engine offers to resource types: signals, nested stacks, keys, URLs with their own proof ."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from pcloud.model.errors import Conflict, NotFound, PcloudError
from pcloud.stacks.engine.scaling import Scaling
from pcloud.stacks.engine.scopes import arn
from pcloud.stacks.records import AccessKey, ResourceRecord, Source, StackRecord, short_hash
from pcloud.stacks.types.base import Context, ResourceFailed, failed, seconds_of
from pcloud.stacks.types.registry import type_made
from pcloud.stacks.types.waiting import newest, refused

MAX_SIGNALS = 10_000
"""Signals kept for one resource."""


class Services(Scaling):
    """The part of the manager that resource types see."""

    async def wait_signals(self, record: str, enough: Callable[[list[dict[str, Any]]], bool], deadline: float) -> bool:
        """Return True when the signals are enough, False at the deadline (wall-clock)."""
        while not enough(self.signals(record)):
            left = deadline - self.now()
            if left <= 0:
                return False
            event = self._pokes.setdefault(record, asyncio.Event())
            event.clear()
            try:
                await asyncio.wait_for(event.wait(), left)
            except TimeoutError:
                return enough(self.signals(record))
        return True

    def signals(self, record: str) -> list[dict[str, Any]]:
        """Return the signals that a resource got, oldest first."""
        return self._signals.get(record, [])

    async def signal(self, record: ResourceRecord, signal: dict[str, Any]) -> None:
        """Store a signal (status, reason, id, data) for a resource, and let its type act on it. Durable on return."""
        stack = self.stacks[record.stack]
        if stack.suspended:
            raise Conflict.of("NOT_NOW", f"Stack [{stack.name}] is suspended: its resources take no signals")
        kind = self.type_of(record)
        if kind is None or kind.keeps_signals:
            known = self._signals.setdefault(record.id, [])
            if len(known) >= MAX_SIGNALS:
                raise PcloudError.of("TOO_MANY_SIGNALS", f"{record.name} got {MAX_SIGNALS} signals already")
            known.append(signal)
            self.store.set("signals", record.id, known)
        reason = f"Signal: status:{signal.get('status', '')} reason:{str(signal.get('reason', ''))[:200]}"
        self.event(stack, record, "SIGNAL_COMPLETE", reason)
        if kind is not None:
            await kind.signal(Context(self, stack, record, dict(record.properties)), signal)
        await self.store.flush()
        self.poke(record.id)

    async def creation_policy(self, context: Context, policy: Any) -> None:
        """Wait for the signals that a CreationPolicy asks for; ResourceFailed when they do not come.

        Of a group's members `AutoScalingCreationPolicy: {MinSuccessfulInstancesPercent: …}` have to be successes; without it
        all of them. The newest signal of each member counts.
        """
        wanted = policy.get("ResourceSignal") if isinstance(policy, dict) else None
        if not isinstance(wanted, dict):
            return
        count = _whole(wanted.get("Count", 1))
        group = policy.get("AutoScalingCreationPolicy")
        percent = _whole(group.get("MinSuccessfulInstancesPercent", 100)) if isinstance(group, dict) else 100
        needed = math.ceil(count * percent / 100)
        seconds = seconds_of(str(wanted.get("Timeout", "PT5M")))
        record = context.record
        began = record.data.setdefault("began", self.now())
        self.save(record)

        def verdicts(signals: list[dict[str, Any]]) -> tuple[int, int]:
            bad = len(refused(signals))
            return len(newest(signals)) - bad, bad

        def decided(signals: list[dict[str, Any]]) -> bool:
            good, bad = verdicts(signals)
            return good >= needed or count - bad < needed

        await self.wait_signals(record.id, decided, began + seconds)
        good, bad = verdicts(self.signals(record.id))
        if good >= needed:
            return
        if percent < 100:
            raise ResourceFailed(
                f"Received {good} SUCCESS signal(s) out of {count}. Unable to satisfy {percent}% "
                "MinSuccessfulInstancesPercent requirement"
            )
        if bad:
            raise ResourceFailed(
                f"Received {bad} FAILURE signal(s) out of the {count} that the creation policy asks for"
            )
        raise ResourceFailed(f"Failed to receive {count - good} resource signal(s) within the specified duration")

    # --- nested stacks

    def child(self, physical: str) -> StackRecord | None:
        """Return a nested stack by id or ARN."""
        return self.stacks.get(physical.rsplit("/", 1)[-1])

    def child_resource(self, stack: str, name: str) -> ResourceRecord | None:
        """Return the current resource of a nested stack."""
        return self._current.get(stack, {}).get(name)

    async def child_apply(
        self, parent: Context, source: Source, *, timeout: int = 0, only: tuple[str, ...] | None = None
    ) -> StackRecord:
        """Make or change the nested stack of a resource and wait for it. With `only`, just these of its resources follow
        what files and aliases are now; when that fails, they are left as they are."""
        child = self.stacks.get(parent.token)
        try:
            if child is None:
                name = f"{parent.stack.name}-{parent.record.name}-{parent.short}"[-128:].lstrip("-")
                child = await self.create(
                    name,
                    source,
                    identity=parent.token,
                    parent=parent.stack,
                    parent_resource=parent.record.name,
                    timeout=timeout,
                    on_failure="DO_NOTHING",
                )
            elif child.busy:
                pass  # a crash came between: it is carried on already
            elif only is not None:
                await self.update(child, source, only=only, on_failure="DO_NOTHING")
            elif child.source is None or not same(child.source, source) or child.status.endswith("FAILED"):
                await self.update(child, source)
            parent.record.physical = arn(child, self.region) if child.owner == "cfn" else child.id
            self.save(parent.record)
            await self.wait(child)
        except PcloudError as problem:
            raise ResourceFailed(failed(problem)) from None
        except asyncio.CancelledError:
            if child is not None and child.busy and not self.closing:
                self._runs[child.id].turn_back("the parent stack was turned back")
                await self.wait(child)
            raise
        settled: tuple[str, ...] = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "RESUME_COMPLETE", "CHECK_COMPLETE")
        if child.source is not None and same(child.source, source):
            settled = (*settled, "UPDATE_ROLLBACK_COMPLETE")  # it went back to the very thing that is wanted now
        if child.status not in settled or child.source is None:
            raise ResourceFailed(f"Embedded stack {arn(child, self.region)} was not successfully made: {child.reason}")
        if not same(child.source, source):
            return await self.child_apply(parent, source, timeout=timeout, only=only)
        return child

    async def child_delete(self, parent: Context) -> None:
        """Delete the nested stack of a resource and wait for it."""
        child = self.stacks.get(parent.token)
        if child is None or not child.live:
            return
        if child.busy and child.operation is not None and child.operation.action != "DELETE":
            await self.wait(child)
        await self.delete(child, forced=True)
        await self.wait(child)
        if child.live:
            raise ResourceFailed(child.reason or "the nested stack was not deleted")

    def resource_value(self, record: ResourceRecord, attribute: str, path: list[Any]) -> Any:
        """Return an attribute of any resource, as its type gives it."""
        stack = self.stacks[record.stack]
        source = stack.source or (stack.operation.target if stack.operation else None)
        if stack.operation is not None and stack.operation.target is not None:
            source = stack.operation.target
        kind, refusal = type_made(
            record.type, record.made_as, source.registry if source else {}, source.files if source else {}
        )
        if kind is None:
            raise NotFound.of("UNKNOWN_TYPE", refusal)
        if attribute == "id":
            return record.physical
        return kind.attribute(record, attribute, path, self)

    def reference_value(self, record: ResourceRecord) -> Any:
        """Return what Ref / get_resource of any resource gives."""
        kind = self.type_of(record)
        return kind.reference(record, self) if kind is not None else record.physical

    def target_of(self, action: str) -> ResourceRecord | None:
        """Return the resource that an alarm's action means: by its reference or by a signal URL of this host."""
        address = action.removeprefix("trust+")
        if not address.startswith(("http://", "https://")):
            return self.find(action)
        parts = urlsplit(address)
        if not parts.path.startswith("/v1/signal/"):
            return None
        record = self.record(parts.path.rsplit("/", 1)[-1])
        given = dict(parse_qsl(parts.query)).get("proof", "")
        if record is None or not hmac.compare_digest(given.encode(), self.proof(record.id, "signal").encode()):
            return None
        return record

    def note(self, record: ResourceRecord, sentence: str) -> None:
        """Write a line about a resource into its stack's events."""
        self.event(self.stacks[record.stack], record, record.status, sentence)

    # --- keys and URLs

    def make_key(self, user: str, stack: str, token: str) -> tuple[str, str]:
        """Make (or return again) the access key of a token: id and secret. The token `random` is the engine's own secret."""
        if token == "random":  # noqa: S105
            return "", self.secret
        identity = key_id(token)
        key = self.keys.get(identity)
        if key is None:
            digest = hmac.new(self.secret.encode(), f"key/{token}/{secrets.token_hex(16)}".encode(), hashlib.sha256)
            key = AccessKey(id=identity, secret=digest.hexdigest()[:40], user=user, stack=stack, created=self.now())
            self.keys[identity] = key
            self.store.put(key)
        return key.id, key.secret

    def enable_key(self, key: str, *, enabled: bool) -> None:
        """Let an access key sign requests, or no longer."""
        known = self.keys[key]
        if known.active != enabled:
            known.active = enabled
            self.store.put(known)

    def drop_key(self, key: str) -> None:
        """Remove an access key."""
        known = self.keys.pop(key, None)
        if known is not None:
            self.store.remove(known)

    def proof(self, record: str, purpose: str) -> str:
        """Return what proves the right to signal a resource."""
        return hmac.new(self.secret.encode(), f"{purpose}/{record}".encode(), hashlib.sha256).hexdigest()

    def signed_url(self, record: ResourceRecord, purpose: str) -> str:
        """Return a URL that carries its own proof; it holds no blanks and no quotes."""
        stack = self.stacks[record.stack]
        where = f"{quote(stack.name, safe='')}/{stack.id}/{quote(record.name, safe='')}"
        return f"{self.metadata_url}/v1/{purpose}/{where}/{record.id}?proof={self.proof(record.id, purpose)}"


def key_id(token: str) -> str:
    """Return the id of the access key of a token."""
    return "PC" + short_hash("key", token, length=18).upper()


def _whole(value: Any) -> int:
    """Return a policy's number; ResourceFailed when its functions gave none."""
    text = str(value)
    if not text.isdecimal() or len(text) > 9:
        raise ResourceFailed(f"the creation policy's '{text[:40]}' is no whole number")
    return int(text)


def same(left: Source, right: Source) -> bool:
    """Whether two sources would make the same stack."""
    return msgspec.msgpack.encode(left, order="sorted") == msgspec.msgpack.encode(right, order="sorted")


def json_text(value: Any) -> str:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":"))
