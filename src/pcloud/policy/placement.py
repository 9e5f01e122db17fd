"""At which of the infrastructure's places each guest runs, and why there. Pure; nothing else chooses a place.

A guest stays where it is: where it runs, or where its disk is. One that has not been made yet, or may not be where it was,
goes where the fewest guests are that it shall be kept apart from (`Assembly.apart`: none, where there are places enough),
and of those where the fewest guests of its deployable are; among equals the order is the deployable's own (a hash), so that
deployables of one guest do not all go to the same place. What is chosen stands in the state (`Guest.place`) and does not
change while other guests come and go.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from msgspec.structs import replace

from pcloud.policy.state import Guest, Memory, Power, State


def place_of(state: State, name: str) -> str:
    """Return where a guest is or, when it may not be there, would be started; empty when no place is known."""
    place = state.guest(name).place
    return place if place and place not in excluded(state, name) else _choose(state, name)


def excluded(state: State, name: str) -> tuple[str, ...]:
    """Return the places where a guest may not be. Where none would be left, all are allowed: better there than nowhere."""
    shunned = state.memory.excluded.get(name)
    if not shunned:
        return ()
    return shunned if any(place not in shunned for place in _known(state, name)) else ()


def exclude(memory: Memory, name: str, places: Iterable[str], now: float) -> Memory:
    """Return the memory in which these are the places where a guest may not be; those that are new count from `now`."""
    since = memory.excluded_at.get(name, {})
    at = {place: since.get(place, now) for place in sorted(places)}
    excluded = {**memory.excluded, name: tuple(at)}
    excluded_at = {**memory.excluded_at, name: at}
    if not at:
        del excluded[name], excluded_at[name]
    return replace(memory, excluded=excluded, excluded_at=excluded_at)


def assigned(state: State) -> State:
    """Return the state in which every guest that does not run has a place where it may be, as far as places are known."""
    if not state.places:
        return state
    for assembly in state.assemblies():
        name, guest = assembly.name, state.guest(assembly.name)
        if guest.power is not Power.ON and _homeless(state, name, guest):
            chosen = replace(guest, place=_choose(state, name), digest="")
            state = replace(state, guests={**state.guests, name: chosen})
    return state


def why(state: State, name: str) -> str:
    """Return why a guest is started at its place, as the end of a sentence; empty where there is no choice."""
    if len(state.places) < 2:
        return ""
    guest, place = state.guest(name), place_of(state, name)
    if guest.place == place and guest.digest:
        return f"at {place}, where it was"
    shunned = excluded(state, name)
    load, group = _load(state, name), _apart(state, name)
    others = ", ".join(f"{other} {load[other]}" for other in state.places if other not in (place, *shunned))
    reasons = [
        f"at {place}, which has {load[place]} of the deployable's other guests{f' ({others})' if others else ''}"
    ]
    if group is not None:
        reasons.append(f"{group[place] or 'none'} of those that it is to be kept apart from")
    if shunned:
        reasons.append(f"it was moved away from {', '.join(shunned)}")
    return ", ".join(reasons)


def _homeless(state: State, name: str, guest: Guest) -> bool:
    """Tell whether a guest needs another place. One that is made may be where no new ones are made any more."""
    if not guest.place or guest.place in excluded(state, name):
        return True
    return not guest.digest and guest.place not in state.places


def _known(state: State, name: str) -> tuple[str, ...]:
    own = state.guest(name).place
    return state.places if not own or own in state.places else (*state.places, own)


def _choose(state: State, name: str) -> str:
    """Return the best place for a guest wherever it is now; empty when no place is known."""
    shunned = excluded(state, name)
    allowed = [place for place in state.places if place not in shunned] or state.places
    load, group = _load(state, name), _apart(state, name) or Counter()
    return min(allowed, key=lambda place: (group[place], load[place], _rank(state.deployable.name, place)), default="")


def _load(state: State, name: str) -> Counter[str]:
    """Return how many of the deployable's other guests are, or shall be, at each place."""
    return Counter(state.guest(other.name).place for other in state.assemblies() if other.name != name)


def _apart(state: State, name: str) -> Counter[str] | None:
    """Return how many of the guests that this one shall be kept apart from are, or shall be, at each place; None when it is
    of no such group."""
    own = next((assembly.apart for assembly in state.assemblies() if assembly.name == name), "")
    if not own:
        return None
    group = (other.name for other in state.assemblies() if other.apart == own and other.name != name)
    return Counter(state.guest(other).place for other in group)


@lru_cache(maxsize=4096)
def _rank(deployable: str, place: str) -> bytes:
    return hashlib.blake2b(f"{deployable}\0{place}".encode(), digest_size=8).digest()
