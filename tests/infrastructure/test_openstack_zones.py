"""Which availability zones count as places, by what Nova says of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pcloud.infrastructure.openstack_making import zones


@pytest.mark.parametrize(
    ("told", "wanted", "places"),
    [
        ([("west", True), ("north", False), ("east", True)], (), ("east", "west")),
        ([("west", True), ("north", False), ("east", True)], ("north", "west"), ("west",)),
        ([("west", True), ("north", False)], ("north", "typo"), ("north", "typo")),
        ([("west", False), ("east", False)], (), ("east", "west")),
        ([("west", None)], (), ("west",)),
        ([], (), ("nova",)),
    ],
)
def test_zones_that_are_not_available_are_no_places(
    told: list[tuple[str, bool | None]], wanted: tuple[str, ...], places: tuple[str, ...]
) -> None:
    """Where none is, all count: what is wrong is then told by the servers that can not be made."""
    found = [
        SimpleNamespace(name=name, state=None if available is None else {"available": available})
        for name, available in told
    ]
    connection = SimpleNamespace(compute=SimpleNamespace(availability_zones=lambda: iter(found)))
    assert zones(connection, wanted) == places
