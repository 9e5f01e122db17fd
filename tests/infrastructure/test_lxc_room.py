"""When it is told that volumes run out of room."""

from __future__ import annotations

import pytest

from pcloud.infrastructure.lxc_room import Look, Room, judge, sentence

GIB = 1 << 30


def look(free: int, promised: int = 50 * GIB, guests: tuple[str, ...] = ("shop.db",)) -> Look:
    return Look(free=free, size=100 * GIB, promised=promised, guests=guests)


@pytest.mark.parametrize(
    ("before", "seen", "now"),
    [
        (Room.ENOUGH, look(40 * GIB), Room.ENOUGH),
        (Room.ENOUGH, look(5 * GIB - 1), Room.SHORT),
        (Room.SHORT, look(6 * GIB), Room.SHORT),
        (Room.SHORT, look(8 * GIB), Room.ENOUGH),
        (Room.SHORT, look(0), Room.FULL),
        (Room.ENOUGH, look(0), Room.FULL),
        (Room.FULL, look(2 * GIB), Room.SHORT),
        (Room.FULL, look(9 * GIB), Room.ENOUGH),
        # What can not grow needs no room, however full it is.
        (Room.ENOUGH, look(0, promised=0), Room.ENOUGH),
        (Room.ENOUGH, look(2 * GIB, promised=GIB), Room.ENOUGH),
    ],
)
def test_how_it_stands(before: Room, seen: Look, now: Room) -> None:
    assert judge(before, seen) is now


def test_who_is_concerned_is_told_within_bounds() -> None:
    told = sentence(Room.FULL, look(0, guests=tuple(f"shop.g{number}" for number in range(1000))))
    assert told.startswith("0 of 102400 MiB are free in the file system that volumes lie in: writes to volumes fail")
    assert told.endswith("shop.g19 and 980 more")
    assert "shop.db" in sentence(Room.SHORT, look(GIB))
    assert "room for volumes again" in sentence(Room.ENOUGH, look(9 * GIB))
