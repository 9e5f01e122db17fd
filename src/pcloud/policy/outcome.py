"""What a fold gives besides the next state."""

from __future__ import annotations

from typing import Any

import msgspec

from pcloud.events.event import Event, Severity
from pcloud.policy.state import State


class Rule(msgspec.Struct, frozen=True):
    """A rule that was applied: a stable name, its subject, and a sentence."""

    rule: str
    subject: str
    text: str


class Outcome:
    """Collects the next state, events, rules, and whether to decide anew. Lives for one fold."""

    __slots__ = ("decide", "events", "now", "rules", "state")

    def __init__(self, state: State, now: float) -> None:
        self.state = state
        self.now = now
        self.events: list[Event] = []
        self.rules: list[Rule] = []
        self.decide = False

    def tell(
        self,
        kind: str,
        subject: str,
        state: str,
        reason: str,
        *,
        severity: Severity = Severity.INFO,
        **data: Any,
    ) -> None:
        """Add an event about a subject: empty for the deployable, `web` for an assembly, `web/httpd` for a resource."""
        assembly, _, resource = subject.partition("/")
        self.events.append(
            Event(
                time=self.now,
                type=kind,
                deployable=self.state.deployable.name,
                assembly=assembly,
                resource=resource.removesuffix("!configure"),
                state=state,
                reason=reason,
                severity=severity,
                data=data,
            )
        )

    def apply(self, rule: str, subject: str, text: str) -> None:
        """Note a rule that was applied; a decision is due."""
        self.rules.append(Rule(rule, subject, text))
        self.decide = True

    def guest(self, name: str, **changes: Any) -> None:
        """Change what is known of a guest."""
        guest = msgspec.structs.replace(self.state.guest(name), **changes)
        self.state = msgspec.structs.replace(self.state, guests={**self.state.guests, name: guest})

    def service(self, subject: str, **changes: Any) -> None:
        """Change what is known of a service."""
        service = msgspec.structs.replace(self.state.service(subject), **changes)
        self.state = msgspec.structs.replace(self.state, services={**self.state.services, subject: service})

    def memory(self, **changes: Any) -> None:
        """Change what must survive the engine."""
        memory = msgspec.structs.replace(self.state.memory, **changes)
        self.state = msgspec.structs.replace(self.state, memory=memory)
