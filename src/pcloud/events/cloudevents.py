"""The CloudEvents 1.0 form of an event: what leaves this program, everywhere the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from pcloud.events.event import Event

PREFIX = "org.pacemaker-cloud."


def to_cloudevent(event: Event, host: str) -> dict[str, Any]:
    """Return the JSON object of an event (structured content mode)."""
    data = dict(event.data)
    # The fixed fields win over additional ones of the same name.
    data.update(
        deployable=event.deployable,
        assembly=event.assembly,
        resource=event.resource,
        state=event.state,
        reason=event.reason,
        severity=event.severity.value,
    )
    return {
        "specversion": "1.0",
        "id": str(event.sequence),
        "source": f"/pcloud/{host}",
        "type": PREFIX + event.type,
        "subject": "/".join(part for part in (event.deployable, event.assembly, event.resource) if part) or "daemon",
        "time": datetime.fromtimestamp(event.time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": data,
    }


def encode(event: Event, host: str) -> bytes:
    """Return the JSON text of an event's CloudEvents form, on one line."""
    return msgspec.json.encode(to_cloudevent(event, host))
