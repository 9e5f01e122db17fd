"""Which events somebody wants. One filter for the log, live subscribers and sinks."""

from __future__ import annotations

import msgspec

from pcloud.events.event import Event, Severity

_ORDER = (Severity.INFO, Severity.NOTICE, Severity.WARNING, Severity.CRITICAL)


class EventFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions that must all hold; an empty one always holds."""

    deployable: str = ""
    assembly: str = ""
    resource: str = ""
    type: str = ""
    """A type, or the beginning of one followed by `*`, such as `image.*`."""
    severity: Severity | None = None
    """At least this severe."""

    def severities(self) -> tuple[Severity, ...]:
        """Return the severities that pass."""
        return _ORDER if self.severity is None else _ORDER[_ORDER.index(self.severity) :]

    def matches(self, event: Event) -> bool:
        """Tell whether an event is wanted."""
        if self.type.endswith("*"):
            if not event.type.startswith(self.type[:-1]):
                return False
        elif self.type and event.type != self.type:
            return False
        return (
            (not self.deployable or event.deployable == self.deployable)
            and (not self.assembly or event.assembly == self.assembly)
            and (not self.resource or event.resource == self.resource)
            and event.severity in self.severities()
        )
