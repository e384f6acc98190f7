"""A timeout that is set and cleared often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from barbtx.api.deadline import Deadline

times = st.integers(1, 20)
steps = st.lists(st.tuples(st.sampled_from(["set", "set", "clear", "wait"]), times), max_size=40)


@given(steps)
def test_it_expires_as_a_delayed_call_that_is_reset_would(steps: list[tuple[str, int]]) -> None:
    clock, expired, expected = Clock(), [], []
    deadline = Deadline(clock, lambda: expired.append(clock.seconds()))
    due: float | None = None
    for step, seconds in steps:
        if step == "set":
            deadline.set(seconds)
            due = clock.seconds() + seconds
        elif step == "clear":
            deadline.clear()
            due = None
        else:
            end = clock.seconds() + seconds
            if due is not None and due <= end:
                expected.append(due)
                due = None
            for _ in range(seconds):
                clock.advance(1)
        assert deadline.time == due and expired == expected
        assert len(clock.getDelayedCalls()) <= 1
    deadline.close()
    assert not clock.getDelayedCalls()


def test_its_owner_may_set_it_again_when_it_expires() -> None:
    clock, expired = Clock(), []

    def again() -> None:
        expired.append(clock.seconds())
        deadline.set(2)

    deadline = Deadline(clock, again)
    deadline.set(1)
    for _ in range(6):
        clock.advance(1)
    assert expired == [1, 3, 5]


def test_after_it_is_closed_it_does_nothing_and_refers_to_nothing() -> None:
    clock, expired = Clock(), []
    deadline = Deadline(clock, lambda: expired.append(1))
    deadline.set(1)
    deadline.close()
    deadline.set(1)
    clock.advance(5)
    assert not expired and deadline.expired is None and not clock.getDelayedCalls()
