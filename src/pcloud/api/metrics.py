"""Metrics in Prometheus' form: gauges are read when asked for; counters follow the committed events."""

from __future__ import annotations

import asyncio
import os
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.processes import memory
from pcloud.events.broadcast import Closed, TooSlow
from pcloud.events.event import Event
from pcloud.model.deployable import LOST, ResourceState

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics(Collector):
    """Everything there is to measure about one daemon."""

    def __init__(self, engine: CloudPolicyEngine) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._events = Counter("pcloud_events", "Events committed", ["type"], registry=self._registry)
        self._failures = Counter("pcloud_failures", "Failures seen, by what failed", ["what"], registry=self._registry)
        self._recoveries = Counter("pcloud_recoveries", "Recoveries done, by what", ["what"], registry=self._registry)
        self._seconds = Histogram(
            "pcloud_recovery_seconds",
            "Seconds from the failure being seen to running again",
            ["what"],
            buckets=_BUCKETS,
            registry=self._registry,
        )

    async def run(self) -> None:
        """Count events for ever."""
        while True:
            with self._engine.subscribe() as news:
                try:
                    while True:
                        event = await news.next()
                        if event is not None:
                            self.count(event)
                except TooSlow:
                    await asyncio.sleep(0)
                except Closed:
                    return

    def count(self, event: Event) -> None:
        """Count one event."""
        self._events.labels(event.type).inc()
        what, dot, kind = event.type.partition(".")
        if not dot or kind != "state":
            return
        if event.state in LOST:
            self._failures.labels(what).inc()
        recovered = event.data.get("recovered")
        if event.state == ResourceState.RUNNING and isinstance(recovered, (int, float)):
            self._recoveries.labels(what).inc()
            if not isinstance(recovered, bool):
                self._seconds.labels(what).observe(max(0.0, recovered))

    def by_state(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many deployables and assemblies are in each state."""
        desired = self._engine.desired
        deployables = Tally(desired.head(row)[0].value for row in desired.rows.values())
        assemblies = Tally(one.state.value for status in desired.statuses.values() for one in status.assemblies)
        return dict(deployables), dict(assemblies)

    def collect(self) -> Iterator[Metric]:
        """Yield what is read when asked for."""
        deployables, assemblies = self.by_state()
        for name, numbers in (("deployables", deployables), ("assemblies", assemblies)):
            family = GaugeMetricFamily(f"pcloud_{name}", f"Number of {name} by state", labels=["state"])
            for state in ResourceState:
                family.add_metric([state.value], numbers.get(state.value, 0))
            yield family
        slots = list(self._engine.fleet.slots.values())
        restarts = CounterMetricFamily("pcloud_engine_restarts", "Ends of engine processes", labels=["slot"])
        usage = GaugeMetricFamily("pcloud_process_private_bytes", "Private memory of our processes", labels=["process"])
        usage.add_metric(["cped"], memory(os.getpid()))
        counters: dict[str, float] = {}
        for slot in slots:
            restarts.add_metric([slot.name], slot.restarts)
            if slot.pid:
                usage.add_metric([f"dped-{slot.name}"], memory(slot.pid))
            if slot.link is not None:
                for name, value in slot.link.counters.items():
                    counters[name] = counters.get(name, 0.0) + value
        yield restarts
        yield usage
        family = GaugeMetricFamily("pcloud_engine", "Numbers of the engine processes, added up", labels=["name"])
        for name, value in sorted(counters.items()):
            family.add_metric([name], value)
        yield family
        committed = CounterMetricFamily("pcloud_records_committed", "Records committed to the store")
        committed.add_metric([], self._engine.ingest.committed)
        yield committed
        failing = GaugeMetricFamily("pcloud_store_failing", "1 while the store can not be written")
        failing.add_metric([], 1 if self._engine.ingest.failing else 0)
        yield failing

    def render(self) -> tuple[bytes, str]:
        """Return the text and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
