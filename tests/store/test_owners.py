"""Two real daemons on one real PostgreSQL store: one owns it, the other stands by and takes over; never do both act.

A machine that stalls for longer than the lease moves the ownership by itself. No test minds: who owns is asked, not assumed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cpe.harness import manifest, until
from tests.store.owners import Member, Proxy, assert_never_two, now, wait_past
from tests.store.postgres import Server


class Pair:
    """Two daemons; each has a way to the store of its own."""

    def __init__(self, folder: Path, server: Server) -> None:
        url = server.database()
        self.acts = folder / "acts"
        self.ways = {}
        self.members = []
        for name in ("a", "b"):
            self.ways[name] = Proxy(server.folder / f"{folder.name}-{name}", server.folder)
            member = Member(folder / name, url.replace(f"host={server.folder}", f"host={self.ways[name].folder}"))
            self.members.append(member)
        (folder / "keys").mkdir()  # both can reach the guests: they share what opens them
        for member in self.members:
            member.home.mkdir()
            (member.home / "keys").symlink_to(folder / "keys")

    def start(self) -> None:
        for member in self.members:
            member.start()

    def owner(self) -> Member:
        return until(lambda: next((each for each in self.members if each.owns()), None), "one of them owns the store")

    def other(self, member: Member) -> Member:
        return next(each for each in self.members if each is not member)

    def close(self) -> None:
        for way in self.ways.values():
            way.mend()
        for member in self.members:
            member.close()
            member.client.close()
        for way in self.ways.values():
            way.close()


def pcloud(member: Member, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command against one of them."""
    program = Path(sys.executable).with_name("pcloud")
    environment = {**os.environ, "PCLOUD_URL": member.url, "PCLOUD_HOME": str(member.home), "COLUMNS": "300"}
    return subprocess.run([program, *words], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Pair]:
    """Two daemons that run, with a deployable; each test leaves them so, and who owns the store does not matter."""
    made = Pair(tmp_path_factory.mktemp("owners"), server)
    try:
        made.start()
        shop(made)
        yield made
    finally:
        made.close()


def have(member: Member, text: str) -> None:
    """Have a deployable applied."""

    def applied() -> bool:
        headers = {"Content-Type": "application/yaml"}
        answer = member.answer("POST", "/v1/deployables", content=text, headers=headers)
        return answer is not None and answer.status_code == 200

    until(applied, "it is applied")


def shop(pair: Pair) -> None:
    """Have a deployable of guests that both can reach."""
    have(pair.owner(), manifest("shop").replace("infrastructure: lxc", "infrastructure: openstack"))
    until(lambda: pair.owner().shows("shop") == "running", "it runs")


def test_the_other_takes_over_from_one_that_is_killed(pair: Pair) -> None:
    first = pair.owner()
    second = pair.other(first)
    guests = first.guest_files("shop")
    have(first, manifest("bound"))  # LXC
    until(lambda: first.shows("bound") == "running", "it runs")
    until(lambda: "owns the store" in second.stands_by(), "the other says who owns it")
    done = pcloud(second, "doctor")
    assert done.returncode, done.stdout
    assert "this daemon stands by" in done.stdout
    assert "this daemon owns the store" in pcloud(first, "doctor").stdout
    engines = set(first.all_engines().values())
    first.kill()
    until(lambda: not engines & set(first.engines().values()), "its engine processes end by themselves")
    until(second.owns, "the other takes over")
    moment = now()
    until(lambda: second.shows("shop") == "running", "it is taken over")
    wait_past(pair.acts, moment)
    assert_never_two(pair.acts)
    assert first.guest_files("shop") == guests, "no guest was made anew"
    told = second.answer(path="/v1/deployables/bound")
    assert told is not None
    assert told.json()["state"] == "unknown"
    assert "its guests are on" in told.json()["reason"]
    assert (first.guests / "loads.bound").read_text().count("\n") == 1, "no engine of the other was given it"
    assert second.answer("POST", "/v1/deployables/bound/recover", json={}) is not None
    until(lambda: second.shows("bound") == "running", "they are taken over on demand")
    first.start()
    until(lambda: first.stands_by() or first.owns(), "the first is back")


def test_one_that_was_stopped_finds_its_token_old(pair: Pair) -> None:
    first = pair.owner()
    second = pair.other(first)
    first.send(signal.SIGSTOP, engines=True)
    until(second.owns, "the other takes over")
    until(lambda: second.shows("shop") == "running", "it is taken over")
    moment = now()
    first.send(signal.SIGCONT, engines=True)
    until(first.stands_by, "the first stands by")
    wait_past(pair.acts, moment)
    assert_never_two(pair.acts)


def test_one_that_is_cut_off_ends_what_acts_for_it(pair: Pair) -> None:
    first = pair.owner()
    second = pair.other(first)
    way = pair.ways[first.home.name]
    way.cut()
    until(first.stands_by, "it stands by, and answers")
    until(second.owns, "the other takes over")
    moment = now()
    until(lambda: second.shows("shop") == "running", "it is taken over")
    wait_past(pair.acts, moment)
    way.mend()
    until(lambda: "owns the store" in first.stands_by(), "it learns who owns the store")
    assert_never_two(pair.acts)


def test_an_orderly_end_lets_the_other_own_it_and_one_that_stands_by_can_be_ended(pair: Pair) -> None:
    first = pair.owner()
    second = pair.other(first)
    answer = first.answer("POST", "/v1/shutdown", json={"engines": True, "guests": False})
    assert answer is not None
    assert answer.status_code == 202, answer.text
    until(second.owns, "the other owns it")
    assert first.ended() == 0
    first.start()
    until(first.stands_by, "the first stands by")
    done = pcloud(first, "down")
    assert done.returncode == 0, done.stderr
    assert first.ended() == 0
    assert second.owns()
    first.start()
    assert_never_two(pair.acts)
