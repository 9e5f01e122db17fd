"""The event type that everything else speaks about."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Severity(StrEnum):
    """How much an event should bother somebody."""

    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a deployable, an assembly or a resource."""

    time: float
    """Seconds since the epoch."""
    type: str
    """`deployable.state`, `assembly.state`, `resource.state`, `decision`, `escalation`, `isolation`, `image.progress` …"""
    deployable: str = ""
    assembly: str = ""
    resource: str = ""
    state: str = ""
    """The new state, one of ResourceState, for the `*.state` types."""
    reason: str = ""
    """A plain sentence: why, or what was seen. Never holds a secret."""
    severity: Severity = Severity.INFO
    data: dict[str, Any] = {}
    """More facts, by name: `signal`, `rc`, `detected`, `recovered`, `rule`, …"""
    sequence: int = 0
    """Position in the log, given by the store; 0 before that. The cursor of `GET /v1/events`."""
