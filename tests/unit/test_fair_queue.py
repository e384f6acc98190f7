"""The owners of items in a fair queue take turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from barbtx.model.records import ASYMMETRIC, SYMMETRIC
from barbtx.queue.fair_queue import FairQueue
from barbtx.queue.local import LocalTransport
from barbtx.queue.transport import TaskMessage
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers())))
def test_everything_comes_out_once_in_its_owners_order_and_owners_take_turns(items: list[tuple[str, int]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for owner, item in items:
        queue.put(owner, (owner, item))
    out = []
    while queue:
        out.append(queue.get())
    for owner in "abc":
        assert [item for item in out if item[0] == owner] == [item for item in items if item[0] == owner]
    for position in range(len(out)):
        # Every owner of waiting items had a turn among the last three.
        waiting = {other for other, _ in out[position:]}
        assert all(other in {o for o, _ in out[max(0, position - 3) : position + 3]} for other in waiting)


class Tasks:
    """Tasks that run until the test ends them."""

    def __init__(self) -> None:
        self.running: list[tuple[str, Deferred[None]]] = []

    async def dispatch(self, message: TaskMessage) -> None:
        gate: Deferred[None] = Deferred()
        self.running.append((message.args["project_id"], gate))
        await gate


def send(transport: LocalTransport, project: str, lane: str) -> Deferred[None]:
    return transport.send(TaskMessage(PROCESS_TYPE_ORDER, {"project_id": project}, lane))


def test_a_key_never_waits_for_pairs_and_a_project_only_for_its_share() -> None:
    tasks = Tasks()
    transport = LocalTransport(tasks, concurrency=2, max_waiting=5000, asymmetric=2)
    for _ in range(1000):
        send(transport, "much", ASYMMETRIC)
    pair = send(transport, "little", ASYMMETRIC)
    assert [project for project, _ in tasks.running] == ["much"] * 2
    key = send(transport, "little", SYMMETRIC)
    assert len(tasks.running) == 3
    tasks.running[2][1].callback(None)
    assert key.called
    for _, gate in tasks.running[:2]:
        gate.callback(None)
    assert "little" in {project for project, _ in tasks.running[3:]}
    dict(tasks.running[3:])["little"].callback(None)
    assert pair.called
