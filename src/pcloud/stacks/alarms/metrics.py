"""Owns measured values: series of one-second buckets, durable, bounded in number, length and age.

A series belongs to a scope: the id of the root stack whose key sent it, or nothing when an operator did.
Concurrency: belongs to the stack engine's event loop; writes are queued in the stack store, and durable after its
next `flush`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pcloud.model.errors import PcloudError
from pcloud.stacks.store import StackStore

KEEP_SECONDS = 86_400.0
"""How long values are kept: the longest that an alarm may look back."""
CHUNK_SECONDS = 300
"""A stored row holds this much of one series."""
MAX_SERIES = 500
"""Series of one scope."""
MAX_BUCKETS = 4_000
"""Buckets of one series; the oldest go."""
KIND = "metric"

Dimensions = Mapping[str, str]


class Bucket(msgspec.Struct, kw_only=True):
    """What was measured within one second."""

    second: int
    count: float
    total: float
    minimum: float
    maximum: float

    def add(self, other: Bucket) -> None:
        """Take another bucket in."""
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)


class Datum(msgspec.Struct, frozen=True, kw_only=True):
    """Values of one metric, measured together."""

    namespace: str
    name: str
    dimensions: dict[str, str] = {}
    time: float
    total: float
    count: float = 1.0
    minimum: float
    maximum: float
    unit: str = ""

    @classmethod
    def single(cls, namespace: str, name: str, value: float, time: float, **dimensions: str) -> Datum:
        """Return one measured value."""
        return cls(
            namespace=namespace, name=name, dimensions=dimensions, time=time, total=value, minimum=value, maximum=value
        )


class Series:
    """One metric with one set of dimensions."""

    __slots__ = ("buckets", "dimensions", "id", "name", "namespace", "scope", "unit")

    def __init__(self, scope: str, namespace: str, name: str, dimensions: Dimensions, unit: str = "") -> None:
        self.scope, self.namespace, self.name, self.unit = scope, namespace, name, unit
        self.dimensions = dict(sorted(dimensions.items()))
        parts = "\0".join([scope, namespace, name, *(f"{key}={value}" for key, value in self.dimensions.items())])
        self.id = hashlib.sha256(parts.encode()).hexdigest()[:32]
        self.buckets: dict[int, Bucket] = {}

    def chunk(self, number: int) -> dict[str, Any]:
        """Return the stored form of one chunk."""
        first = number * CHUNK_SECONDS
        held = [self.buckets[second] for second in range(first, first + CHUNK_SECONDS) if second in self.buckets]
        return {
            "scope": self.scope,
            "namespace": self.namespace,
            "name": self.name,
            "dimensions": self.dimensions,
            "unit": self.unit,
            "buckets": [msgspec.to_builtins(bucket) for bucket in held],
        }


class Metrics:
    """All series of this host."""

    def __init__(self, store: StackStore) -> None:
        self._store = store
        self.series: dict[str, Series] = {}
        self._sizes: dict[str, int] = {}

    def load(self) -> None:
        """Read what is stored."""
        for row in self._store.things(KIND).values():
            series = self._series(row["scope"], row["namespace"], row["name"], row["dimensions"], row["unit"])
            for item in row["buckets"]:
                bucket = msgspec.convert(item, Bucket)
                series.buckets[bucket.second] = bucket

    def _series(self, scope: str, namespace: str, name: str, dimensions: Dimensions, unit: str = "") -> Series:
        fresh = Series(scope, namespace, name, dimensions, unit)
        known = self.series.get(fresh.id)
        if known is not None:
            return known
        if self._sizes.get(scope, 0) >= MAX_SERIES:
            raise PcloudError.of("TOO_MANY_METRICS", f"there are {MAX_SERIES} different metrics already")
        self._sizes[scope] = self._sizes.get(scope, 0) + 1
        self.series[fresh.id] = fresh
        return fresh

    def put(self, scope: str, datum: Datum, now: float) -> Series | None:
        """Add values; those older than what is kept or from the future are dropped. TOO_MANY_METRICS, BAD_VALUE."""
        values = (datum.total, datum.count, datum.minimum, datum.maximum)
        if not all(math.isfinite(value) for value in values) or datum.count <= 0:
            raise PcloudError.of("BAD_VALUE", f"the value of {datum.name} is not a finite number")
        if not now - KEEP_SECONDS < datum.time <= now + 60:
            return None
        series = self._series(scope, datum.namespace, datum.name, datum.dimensions, datum.unit)
        second = math.floor(datum.time)
        fresh = Bucket(
            second=second, count=datum.count, total=datum.total, minimum=datum.minimum, maximum=datum.maximum
        )
        known = series.buckets.get(second)
        if known is not None:
            known.add(fresh)
        else:
            series.buckets[second] = fresh
        if len(series.buckets) > MAX_BUCKETS:
            self._cut(series, sorted(series.buckets)[: len(series.buckets) - MAX_BUCKETS])
        self._write(series, second // CHUNK_SECONDS)
        return series

    def _write(self, series: Series, chunk: int) -> None:
        body = series.chunk(chunk)
        self._store.set(KIND, f"{series.id}/{chunk}", body if body["buckets"] else None)

    def _cut(self, series: Series, seconds: Iterable[int]) -> None:
        chunks = set()
        for second in seconds:
            del series.buckets[second]
            chunks.add(second // CHUNK_SECONDS)
        for chunk in chunks:
            self._write(series, chunk)

    def expire(self, now: float) -> None:
        """Drop what is older than what is kept."""
        for series in list(self.series.values()):
            old = [second for second in series.buckets if second < now - KEEP_SECONDS]
            if old:
                self._cut(series, old)
            if not series.buckets:
                self._forget(series)

    def drop(self, scope: str) -> None:
        """Forget all values of a scope: its stack is gone."""
        for series in [item for item in self.series.values() if item.scope == scope]:
            self._cut(series, list(series.buckets))
            self._forget(series)

    def _forget(self, series: Series) -> None:
        del self.series[series.id]
        self._sizes[series.scope] -= 1

    def matching(self, scopes: frozenset[str], namespace: str, name: str, dimensions: Dimensions) -> list[Series]:
        """Return the series of a metric that have at least these dimensions."""
        return [
            series
            for series in self.series.values()
            if series.scope in scopes
            and series.name == name
            and series.namespace == namespace
            and all(series.dimensions.get(key) == value for key, value in dimensions.items())
        ]


def window(series: Iterable[Series], after: float, until: float) -> Bucket | None:
    """Return what was measured in the seconds (after, until], all series together; None when nothing was."""
    result: Bucket | None = None
    for item in series:
        for bucket in item.buckets.values():
            if after < bucket.second <= until:
                if result is None:
                    result = msgspec.structs.replace(bucket)
                else:
                    result.add(bucket)
    return result


def statistic(bucket: Bucket, name: str) -> float:
    """Return a statistic of what was measured: SampleCount, Sum, Average, Minimum or Maximum."""
    match name:
        case "SampleCount":
            return bucket.count
        case "Sum":
            return bucket.total
        case "Minimum":
            return bucket.minimum
        case "Maximum":
            return bucket.maximum
    return bucket.total / bucket.count
