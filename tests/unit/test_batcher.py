"""How requests that arrive together are sent together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from barbtx import activity
from barbtx.activity import Activity
from barbtx.model.batcher import Batcher, RequestFailed
from barbtx.model.database_failures import CancelledInCommit


class Refused(Exception):
    pass


class Common(Exception):
    pass


class Desk:
    """A batcher, what it has sent, and what became of the requests."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.sent: list[tuple[list[object], Deferred[Sequence[object]]]] = []
        self.outcomes: dict[object, object] = {}
        self.waiting: dict[object, Deferred[object]] = {}
        self.batcher: Batcher[object, object] = Batcher(
            self.clock, self._send, 2.0, options.pop("max_waiting", 1000), Refused, (Common,), **options
        )

    def _send(self, keys: Sequence[object], seconds: float) -> Deferred[Sequence[object]]:
        assert 0 < seconds <= 2.0
        answered: Deferred[Sequence[object]] = Deferred()
        self.sent.append((list(keys), answered))
        return answered

    def request(self, *keys: object, project: str | None = None) -> None:
        for key in keys:
            deferred = self.waiting[key] = activity.run(Activity(project_id=project), self.batcher.request, key)
            deferred.addBoth(self._note, key)

    def _note(self, outcome: object, key: object) -> None:
        self.outcomes[key] = getattr(outcome, "value", outcome)

    def turn(self) -> None:
        self.clock.advance(0)

    def answer(self) -> None:
        """Answer the group that was sent first."""
        keys, answered = self.sent.pop(0)
        answered.callback([f"answer to {key}" for key in keys])

    @property
    def groups(self) -> list[list[object]]:
        return [keys for keys, _ in self.sent]


def test_requests_of_one_turn_are_one_group_and_each_has_its_answer() -> None:
    desk = Desk()
    desk.request(1, 2, 3)
    assert desk.groups == []
    desk.turn()
    assert desk.groups == [[1, 2, 3]]
    desk.answer()
    assert desk.outcomes == {1: "answer to 1", 2: "answer to 2", 3: "answer to 3"}


def test_what_arrives_while_groups_are_in_flight_is_the_next_group() -> None:
    desk = Desk(depth=2)
    for key in range(6):
        desk.request(key)
        desk.turn()
    assert desk.groups == [[0], [1]] and desk.batcher.waiting == 4
    desk.answer()
    desk.turn()
    assert desk.groups == [[1], [2, 3, 4, 5]]


def test_projects_take_turns() -> None:
    desk = Desk(size=4, depth=1)
    desk.request(*range(100), project="much")
    desk.request("a", "b", project="little")
    desk.turn()
    assert desk.groups == [[0, "a", 1, "b"]]


@given(st.text("abc", max_size=30), st.integers(1, 9))
def test_of_too_many_the_project_with_the_most_waiting_loses_one(projects: str, limit: int) -> None:
    desk = Desk(max_waiting=limit, depth=1)
    for number, project in enumerate(projects):
        before = set(desk.outcomes)
        desk.request((project, number), project=project)
        kept = Counter(key[0] for key in desk.waiting if key not in desk.outcomes)
        assert kept.total() == min(number + 1, limit) == desk.batcher.waiting
        for key in set(desk.outcomes) - before:
            assert isinstance(desk.outcomes[key], Refused)
            assert kept[key[0]] + 1 >= max(kept.values())


def test_one_bad_request_fails_alone() -> None:
    desk = Desk()
    desk.request("good", "bad", "fine")
    desk.turn()
    desk.sent.pop(0)[1].errback(ValueError("something in there"))
    assert desk.groups == [["good"], ["bad"], ["fine"]]
    desk.answer()
    desk.sent.pop(0)[1].errback(ValueError("bad"))
    desk.answer()
    assert desk.outcomes["good"] == "answer to good" and desk.outcomes["fine"] == "answer to fine"
    assert isinstance(desk.outcomes["bad"], ValueError)


def test_a_failure_that_concerns_all_fails_all_at_once() -> None:
    desk = Desk()
    desk.request(1, 2)
    desk.turn()
    desk.sent.pop(0)[1].errback(Common())
    assert desk.groups == [] and all(isinstance(outcome, Common) for outcome in desk.outcomes.values())
    desk.request(3)
    desk.turn()
    assert desk.groups == [[3]]


def test_a_cancelled_request_is_not_sent_and_delays_nobody() -> None:
    desk = Desk(depth=1)
    desk.request(1, 2)
    desk.waiting[1].cancel()
    desk.turn()
    assert desk.groups == [[2]] and isinstance(desk.outcomes[1], CancelledError)
    desk.request(3)
    desk.waiting[2].cancel()
    desk.answer()
    desk.turn()
    assert desk.groups == [[3]] and isinstance(desk.outcomes[2], CancelledError)


def test_what_has_waited_too_long_is_refused_when_its_turn_comes() -> None:
    desk = Desk(depth=1)
    desk.request("in flight")
    desk.turn()
    desk.request("waits")
    desk.clock.advance(2.1)
    desk.request("late")
    desk.answer()
    desk.turn()
    assert desk.groups == [["late"]] and isinstance(desk.outcomes["waits"], Refused)


def test_if_one_request_has_failed_the_others_are_sent_again_together() -> None:
    desk = Desk()
    desk.request("good", "bad", "fine", "left")
    desk.turn()
    desk.waiting["left"].cancel()
    desk.sent.pop(0)[1].errback(RequestFailed(1, ValueError("bad")))
    assert desk.groups == [["good", "fine"]] and isinstance(desk.outcomes["bad"], ValueError)
    desk.answer()
    assert desk.outcomes["good"] == "answer to good" and desk.outcomes["fine"] == "answer to fine"


def test_each_request_of_a_failed_group_has_an_exception_of_its_own_that_is_made_in_its_activity() -> None:
    made = []

    def renew(error: Exception) -> Exception:
        made.append(activity.current().project_id)
        return Common(*error.args)

    desk = Desk(renew=renew)
    desk.request("a", project="p")
    desk.request("b", project="q")
    desk.turn()
    desk.sent.pop(0)[1].errback(Common("down"))
    first, second = desk.outcomes["a"], desk.outcomes["b"]
    assert isinstance(first, Common) and isinstance(second, Common) and first is not second
    assert first.args == second.args == ("down",) and made == ["p", "q"]


def test_whoever_cancels_what_was_sent_is_told_so() -> None:
    desk = Desk(abandoned=CancelledInCommit)
    desk.request("sent")
    desk.turn()
    desk.request("waits")
    desk.waiting["sent"].cancel()
    desk.waiting["waits"].cancel()
    assert isinstance(desk.outcomes["sent"], CancelledInCommit)
    assert type(desk.outcomes["waits"]) is CancelledError
