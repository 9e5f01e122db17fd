"""The rule of the lease, in virtual time: whatever is slow, lost, stopped or killed, never do two act at one moment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pcloud.store.lease import (
    Grant,
    Holder,
    LocalLease,
    Tenure,
    claimed,
    open_lease,
    released,
    renewed,
    until,
)

LENGTH = 10.0
A, B = Holder(id="a", host="one", url="http://one:8780"), Holder(id="b", host="two")


def test_the_first_claim_has_the_first_token() -> None:
    row = claimed(None, 100.0, A, LENGTH)
    assert row == Tenure(holder="a", host="one", url="http://one:8780", token=1, expires=110.0)


def test_another_takes_over_exactly_at_the_end_and_not_before() -> None:
    row = claimed(None, 100.0, A, LENGTH)
    assert claimed(row, math.nextafter(110.0, 0), B, LENGTH) is None
    taken = claimed(row, 110.0, B, LENGTH)
    assert taken is not None
    assert (taken.holder, taken.token, taken.expires) == ("b", 2, 120.0)


def test_the_same_daemon_takes_its_own_up_at_once_with_a_new_token() -> None:
    row = claimed(None, 100.0, A, LENGTH)
    again = claimed(row, 101.0, A, LENGTH)
    assert again is not None
    assert again.token == 2
    assert renewed(again, 101.0, 1, LENGTH) is None, "its former run is over"


def test_what_is_over_and_was_not_taken_can_be_renewed() -> None:
    row = claimed(None, 100.0, A, LENGTH)
    longer = renewed(row, 500.0, 1, LENGTH)
    assert longer is not None
    assert longer.expires == 510.0


def test_released_is_free_at_once_and_its_token_is_never_used_again() -> None:
    row = released(claimed(None, 100.0, A, LENGTH), 101.0, 1)
    assert row is not None
    taken = claimed(row, 101.0, B, LENGTH)
    assert taken is not None
    assert taken.token == 2
    assert released(taken, 102.0, 1) is None, "who lost it can not release it"


def test_without_a_length_it_never_ends_by_itself() -> None:
    row = claimed(None, 100.0, A, 0)
    assert row is not None
    assert row.expires is None
    assert claimed(row, 1e12, B, 0) is None
    assert until(5.0, 0) == math.inf


async def test_a_store_of_one_daemon_has_a_lease_as_well() -> None:
    lease = open_lease("sqlite+aiosqlite:////nowhere/pcloud.db", A, LENGTH)
    assert isinstance(lease, LocalLease)
    assert await lease.look() is None
    grant = await lease.claim()
    assert grant == Grant(token=0, until=math.inf)
    assert await lease.renew(grant) == grant
    await lease.release(grant)
    await lease.close()


@dataclass
class Run:
    """One run of a daemon, with what acts for it."""

    who: Holder
    grant: Grant | None = None
    stopped: bool = False
    asked: float | None = None
    """When it sent the question that is on its way."""
    question: str = ""
    answer: Grant | None = None
    """On its way back."""
    own_clock: float = 0.0
    """How far its clock is from the database's."""
    tokens: list[int] = field(default_factory=list)
    """Every one that it ever had."""


class Owners(RuleBasedStateMachine):
    """Three daemons and the database. Questions and answers take any time, or are lost; runs stop, go on, are killed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.row: Tenure | None = None
        self.runs = [
            Run(Holder(id=name, host=name), own_clock=at) for name, at in (("a", 0.0), ("b", 500.0), ("c", -70))
        ]
        self.written: list[int] = []
        """Token of every write that the store took."""

    numbers = st.integers(0, 2)

    @initialize()
    def first(self) -> None:
        self.row = None

    def clock(self, run: Run) -> float:
        return self.now + run.own_clock

    @rule(number=numbers, question=st.sampled_from(["claim", "renew", "release"]))
    def ask(self, number: int, question: str) -> None:
        run = self.runs[number]
        if run.stopped or run.asked is not None or (question != "claim" and run.grant is None):
            return
        run.asked, run.question = self.clock(run), question
        if question == "release":
            before = run.grant
            assert before is not None
            run.grant = None  # whoever acted for it has ended before
            self.row = released(self.row, self.now, before.token) or self.row
            run.asked = None

    @rule(number=numbers)
    def database_answers(self, number: int) -> None:
        run = self.runs[number]
        if run.asked is None or run.answer is not None:
            return
        if run.question == "claim":
            new = claimed(self.row, self.now, run.who, LENGTH)
        else:
            assert run.grant is not None
            new = renewed(self.row, self.now, run.grant.token, LENGTH)
        if new is None:
            if run.question == "renew":
                run.grant = None
            run.asked = None
            return
        self.row = new
        run.answer = Grant(token=new.token, until=until(run.asked, LENGTH))

    @rule(number=numbers, lost=st.booleans())
    def answer_arrives(self, number: int, lost: bool) -> None:
        run = self.runs[number]
        if run.answer is None or run.stopped:
            return
        if not lost:
            run.grant = run.answer
            run.tokens.append(run.grant.token)
        run.answer = run.asked = None

    @rule(number=numbers, question=st.sampled_from(["claim", "renew"]))
    def asks_and_is_answered(self, number: int, question: str) -> None:
        self.ask(number, question)
        self.database_answers(number)
        self.answer_arrives(number, lost=False)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, LENGTH * 0.85, LENGTH]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=numbers)
    def stop_or_continue(self, number: int) -> None:
        self.runs[number].stopped = not self.runs[number].stopped

    @rule(number=numbers)
    def killed_and_started(self, number: int) -> None:
        """Its engine processes go on to the end of what they were given: the new run's are the same ones."""
        run = self.runs[number]
        run.asked = run.answer = None

    @precondition(lambda self: any(run.tokens for run in self.runs))
    @rule(number=numbers, data=st.data())
    def write(self, number: int, data: st.DataObject) -> None:
        """Any run may try to write with any token it ever had; the store compares it."""
        tokens = self.runs[number].tokens
        assert self.row is not None
        if tokens and (token := data.draw(st.sampled_from(tokens))) == self.row.token:
            self.written.append(token)

    @invariant()
    def one_at_most_acts(self) -> None:
        acting = [run.who.id for run in self.runs if run.grant is not None and self.clock(run) < run.grant.until]
        assert len(acting) <= 1, (self.now, acting, self.row)

    @invariant()
    def who_acts_holds_the_row(self) -> None:
        for run in self.runs:
            if run.grant is not None and self.clock(run) < run.grant.until:
                assert self.row is not None
                assert self.row.holder == run.who.id

    @invariant()
    def tokens_only_rise(self) -> None:
        assert self.written == sorted(self.written)


TestOwners = Owners.TestCase
TestOwners.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("length", [5.0, 30.0, 3600.0])
def test_an_owner_stops_well_before_another_may_begin(length: float) -> None:
    row = claimed(None, 100.0, A, length)
    assert row is not None
    assert row.expires is not None
    assert until(100.0, length) <= row.expires - length / 20
