"""Where guests are placed: what holds for every deployable, every set of places, and every order in which they start."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pcloud.model.deployable import Assembly, Deployable
from pcloud.policy import placement
from pcloud.policy.state import Guest, Memory, Power, State

ZONES = st.lists(st.sampled_from("abcdef"), min_size=1, unique=True).map(tuple)
WORDS = st.lists(st.sampled_from(["", "r", "s"]), min_size=1, max_size=10)


def state(words: list[str], zones: tuple[str, ...], name: str = "shop", **changes: object) -> State:
    """Guests with these words in `apart`, none of them made."""
    assemblies = tuple(Assembly(name=f"g{i}", apart=word) for i, word in enumerate(words))
    return State(deployable=Deployable(name=name, assemblies=assemblies), places=zones, **changes)  # type: ignore[arg-type]


def where(found: State) -> dict[str, str]:
    return {a.name: placement.place_of(found, a.name) for a in found.assemblies()}


@given(st.integers(1, 12), ZONES)
def test_guests_are_spread_evenly(number: int, zones: tuple[str, ...]) -> None:
    load = Counter(where(placement.assigned(state([""] * number, zones))).values())
    assert set(load) <= set(zones)
    assert max(load.values()) - min(load[zone] for zone in zones) <= 1


@given(WORDS, ZONES)
def test_what_excludes_each_other_is_apart_where_there_are_places_enough(
    words: list[str], zones: tuple[str, ...]
) -> None:
    found = where(placement.assigned(state(words, zones)))
    for word in ("r", "s"):
        load = Counter(found[f"g{i}"] for i, each in enumerate(words) if each == word)
        if load:
            assert max(load.values()) - min(load[zone] for zone in zones) <= 1


@given(WORDS, ZONES, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_who_starts_first(words: list[str], zones: tuple[str, ...], random) -> None:
    found = placement.assigned(state(words, zones))
    chosen = where(found)
    order = list(chosen)
    random.shuffle(order)
    for name in order:
        made = replace(found.guest(name), power=Power.ON, digest="d", probed=True)
        found = placement.assigned(replace(found, guests={**found.guests, name: made}))
        assert where(found) == chosen
    shuffled = list(zones)
    random.shuffle(shuffled)
    assert where(placement.assigned(state(words, tuple(shuffled)))) == chosen, "nor on the order of the places"


@given(WORDS, ZONES, st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abcdefg")), max_size=8), st.data())
def test_nobody_who_may_stay_is_moved(
    words: list[str], zones: tuple[str, ...], shunned: list[tuple[int, str]], data: st.DataObject
) -> None:
    excluded: dict[str, tuple[str, ...]] = {}
    for i, zone in shunned:
        excluded[f"g{i}"] = (*excluded.get(f"g{i}", ()), zone)
    guests = {
        f"g{i}": Guest(
            place=data.draw(st.sampled_from("abcdefg")),
            digest=data.draw(st.sampled_from(["", "d"])),
            power=data.draw(st.sampled_from([*Power])),
        )
        for i in range(len(words))
        if data.draw(st.booleans())
    }
    before = state(words, zones, guests=guests, memory=Memory(excluded=excluded))
    after = placement.assigned(before)
    assert placement.assigned(after) == after
    for name, place in where(after).items():
        former, never = before.guest(name), excluded.get(name, ())
        there = former.power is Power.ON or former.digest
        if former.place and former.place not in never and (there or former.place in zones):
            assert place == former.place, "where it runs or has its disk, also where no new guest is made"
        if not there:
            assert place in zones
        if set(zones) - set(never):
            assert place not in never
        assert place, "no guest is left without a place"
        if former.power is Power.ON:
            assert after.guest(name) == former, "what is known of a guest that runs is not overwritten"


def test_deployables_of_one_guest_are_spread_too() -> None:
    zones = ("a", "b", "c")
    load = Counter(where(state([""], zones, f"shop{i}"))["g0"] for i in range(300))
    assert min(load[zone] for zone in zones) > 50


def test_the_reason_names_the_numbers() -> None:
    found = placement.assigned(state(["r", "", "r"], ("a", "b")))
    load, here = Counter(where(found).values()), where(found)["g2"]
    there = "b" if here == "a" else "a"
    assert placement.why(found, "g2") == (
        f"at {here}, which has {load[here] - 1} of the deployable's other guests ({there} {load[there]}), "
        "none of those that it is to be kept apart from"
    )
    moved = placement.assigned(replace(found, memory=Memory(excluded={"g1": (where(found)["g1"],)})))
    assert placement.why(moved, "g1").endswith(f"it was moved away from {where(found)['g1']}")
    assert placement.why(state([""], ("a",)), "g0") == ""
