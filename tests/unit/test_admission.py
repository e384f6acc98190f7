"""How transactions share the connections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barbtx.model.admission import Admission, AdmissionTicket, Lane, QueueFull, Workload

TABLES = ("secrets", "orders", "containers")


def lanes(tables: tuple[str, ...] = TABLES, work: tuple[Workload, ...] = tuple(Workload)) -> st.SearchStrategy[Lane]:
    return st.builds(Lane, st.sampled_from(tables), st.sampled_from(work), st.sampled_from([None, "a", "b"]))


LANES = lanes()


def many(lanes: st.SearchStrategy[Lane]) -> st.SearchStrategy[list[Lane]]:
    """Enough of some lanes to fill whatever they may have."""
    return st.lists(lanes, min_size=1, max_size=9).map(lambda drawn: drawn * 40)


class Desk:
    """Enters transactions and remembers what became of them."""

    def __init__(self, size: int, limit: int = 1000, writers: int | None = None) -> None:
        self.admission = Admission(size, limit, writers)
        self.begun: list[object] = []
        self.displaced: list[object] = []
        self.places: dict[object, AdmissionTicket] = {}
        self._last = 0

    def enter(self, lane: Lane) -> int:
        self._last += 1
        name = self._last
        self.places[name] = self.admission.enter(
            lane, lambda: self.begun.append(name), lambda: self.displaced.append(name)
        )
        return name

    def running(self, **wanted: object) -> int:
        return sum(
            place.running and all(getattr(place.lane, key) == value for key, value in wanted.items())
            for name, place in self.places.items()
        )

    def leave(self, name: int) -> None:
        self.admission.leave(self.places.pop(name))

    def withdraw(self, name: int) -> None:
        self.admission.withdraw(self.places.pop(name))


@given(st.integers(1, 12), st.lists(LANES, max_size=80), st.data())
def test_no_share_is_exceeded_and_nothing_waits_without_a_reason(
    size: int, lanes: list[Lane], data: st.DataObject
) -> None:
    desk = Desk(size)
    half, quarter = max(1, size // 2), max(1, size // 4)
    for lane in lanes:
        desk.enter(lane)
        if desk.begun and data.draw(st.booleans()):
            desk.leave(desk.begun.pop(0))
    assert desk.running() <= size
    for tables in ("secrets", "orders", "containers"):
        assert desk.running(tables=tables) <= half
        assert all(desk.running(tables=tables, work=work) <= quarter for work in (Workload.LIST, Workload.WRITE))
    assert all(desk.running(work=work) <= half for work in (Workload.LIST, Workload.WRITE))
    while desk.begun:
        desk.leave(desk.begun.pop(0))
    assert not desk.places and desk.admission.running == desk.admission.waiting == 0


@given(st.integers(4, 40), many(lanes(tables=("orders",))), st.sampled_from(Workload))
def test_one_stuck_group_of_tables_leaves_connections_to_the_others(
    size: int, stuck: list[Lane], work: Workload
) -> None:
    desk = Desk(size)
    for lane in stuck:
        desk.enter(lane)
    other = desk.enter(Lane("secrets", work))
    assert other in desk.begun


@given(
    st.integers(4, 40),
    many(lanes(work=(Workload.WRITE,))),
    st.sampled_from([Workload.READ, Workload.LIST]),
)
def test_stuck_writes_leave_connections_to_reads_and_lists(size: int, stuck: list[Lane], work: Workload) -> None:
    desk = Desk(size)
    for lane in stuck:
        desk.enter(lane)
    assert desk.enter(Lane("secrets", work, "a")) in desk.begun


@given(st.integers(8, 40), st.sampled_from(Workload), st.integers(1, 100))
def test_one_project_leaves_connections_to_the_others(size: int, work: Workload, count: int) -> None:
    desk = Desk(size)
    for _ in range(count):
        desk.enter(Lane("secrets", work, "a"))
    assert desk.enter(Lane("secrets", work, "b")) in desk.begun


@given(st.lists(LANES, min_size=1, max_size=60))
def test_a_single_writer_writes_in_turn(lanes: list[Lane]) -> None:
    desk = Desk(8, writers=1)
    for lane in lanes:
        desk.enter(lane)
    ended = 0
    while desk.begun:
        assert desk.running(work=Workload.WRITE) <= 1
        desk.leave(desk.begun.pop(0))
        ended += 1
    assert ended == len(lanes)


def test_those_of_a_lane_begin_in_order_and_lanes_take_turns() -> None:
    desk = Desk(1)
    a, b = Lane("secrets", Workload.READ, "a"), Lane("secrets", Workload.READ, "b")
    first = [desk.enter(lane) for lane in (a, a, a, b, b)]
    order = []
    while desk.begun:
        order.append(desk.begun.pop(0))
        desk.leave(order[-1])
    assert order == [first[0], first[1], first[3], first[2], first[4]]


def test_who_waits_most_makes_room_for_others() -> None:
    desk = Desk(1, limit=5)
    greedy = [desk.enter(Lane("orders", Workload.WRITE, "a")) for _ in range(5)]
    with pytest.raises(QueueFull):
        desk.enter(Lane("orders", Workload.WRITE, "a"))
    desk.enter(Lane("secrets", Workload.READ, "b"))
    assert desk.displaced == [greedy[4]] and desk.admission.waiting == 4


def test_what_nobody_waits_for_never_begins() -> None:
    desk = Desk(1)
    lane = Lane("secrets", Workload.READ)
    first, second, third = (desk.enter(lane) for _ in range(3))
    desk.withdraw(second)
    desk.leave(first)
    assert desk.begun == [first, third]


def test_writes_that_join_another_take_turns_and_leave_the_shares_alone() -> None:
    desk = Desk(12, writers=1)
    lanes = {
        "much": Lane("secrets", Workload.WRITE, "much"),
        "little": Lane("secrets", Workload.WRITE, "little"),
        "orders": Lane("orders", Workload.WRITE, "much"),
    }
    first = desk.enter(lanes["much"])
    entered = {desk.enter(lanes["much"]): "much" for _ in range(50)}
    entered |= {desk.enter(lanes["little"]): "little", desk.enter(lanes["orders"]): "orders"}
    assert desk.begun == [first]
    desk.admission.join(6)
    joined = desk.begun[1:]
    assert sorted(entered[name] for name in joined) == ["little", "much", "much", "much", "much", "orders"]
    assert {entered[name] for name in joined[:3]} == set(lanes)
    assert desk.admission.running == 7 and desk.admission.waiting == 46
    # Those that joined count towards no limit, and the next write begins when the first one leaves.
    for name in joined:
        desk.leave(name)
    assert len(desk.begun) == 7
    desk.leave(first)
    assert len(desk.begun) == 8 and desk.admission.running == 1


def test_only_writes_join_others() -> None:
    desk = Desk(2, writers=1)
    desk.enter(Lane("secrets", Workload.WRITE))
    lists = [desk.enter(Lane("orders", Workload.LIST)) for _ in range(3)]
    desk.admission.join(10)
    assert [name for name in lists if desk.places[name].joined] == []
