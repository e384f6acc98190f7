"""Waiting for an order instead of asking again and again: Prefer: wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from barbtx.api.order_watch import OrderWatch, preferred_wait
from tests.conftest import unique
from tests.support.servers import PATIENCE, PostgreSQL, RabbitMQ
from tests.support.service import Api, Deployment


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("wait=30", 30),
        ("respond-async, wait=10", 10),
        ('Wait = "5"; x=y', 5),
        ("wait=0", 0),
        ("wait", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=5, wait=6", 5),
        ("waiting=5", None),
        ("wait=99999999999999", None),
    ],
)
def test_the_preference_is_read_as_rfc_7240_writes_it(header: str | None, seconds: int | None) -> None:
    assert preferred_wait(header) == seconds


@pytest.fixture
def deployment(postgresql: PostgreSQL, rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, postgresql.new_database(unique()), rabbitmq.url, unique("tasks."))
    yield deployment
    deployment.stop()


async def patient(api: Api, ref: str, seconds: int):
    return await api.get(ref, headers={"Prefer": f"wait={seconds}"}, timeout=seconds + PATIENCE)


@pytest_twisted.ensureDeferred
async def test_the_answer_comes_when_the_order_ends(deployment: Deployment) -> None:
    api = deployment.api()
    refs = [await api.order() for _ in range(20)]
    plain = await api.get(refs[0])
    assert plain.json["status"] == "PENDING" and "preference-applied" not in plain.headers
    assert "Prefer" not in plain.headers["vary"]
    short = await patient(api, refs[0], 1)
    assert short.json["status"] == "PENDING" and short.headers["preference-applied"] == "wait=1"
    # Whoever waited in vain would get an order that is PENDING.
    waiting = [Deferred.fromCoroutine(patient(api, ref, 60)) for ref in refs]
    deployment.worker()
    replies = await gatherResults(waiting)
    assert {reply.json["status"] for reply in replies} == {"ACTIVE"}
    done = await patient(api, refs[0], 500)
    assert done.headers["preference-applied"] == "wait=60" and done.json["secret_ref"]


@pytest_twisted.ensureDeferred
async def test_who_waits_for_an_order_that_is_deleted_is_told(deployment: Deployment) -> None:
    api = deployment.api()
    ref = await api.order()
    waiting = Deferred.fromCoroutine(patient(api, ref, 30))
    assert (await patient(api, ref, 1)).status == 200
    assert (await api.delete(ref)).status == 204
    assert (await waiting).status == 404


@pytest_twisted.ensureDeferred
async def test_a_service_that_stops_answers_those_who_wait(deployment: Deployment) -> None:
    from twisted.internet import reactor

    api = deployment.api()
    ref = await api.order()
    waiting = [Deferred.fromCoroutine(patient(api, ref, 30)) for _ in range(5)]
    await patient(api, ref, 1)
    begin = reactor.seconds()
    api.process.process.terminate()
    assert {reply.json["status"] for reply in await gatherResults(waiting)} == {"PENDING"}
    assert reactor.seconds() - begin < 5 and api.process.stop() == 0


@pytest_twisted.ensureDeferred
async def test_no_more_wait_than_configured(deployment: Deployment) -> None:
    from twisted.internet import reactor

    api = deployment.api(**{"api.max_waiters": 2})
    ref = await api.order()
    before = reactor.seconds()

    async def took() -> float:
        assert (await patient(api, ref, 3)).json["status"] == "PENDING"
        return reactor.seconds() - before

    times = sorted(await gatherResults([Deferred.fromCoroutine(took()) for _ in range(4)]))
    assert times[1] < 2 and times[2] >= 3, times


class _Orders:
    """Orders that end when a test says so; how often anybody asked."""

    def __init__(self) -> None:
        self.asked, self.ended = 0, set()

    async def ended_of(self, ids: list[str]) -> list[str]:
        self.asked += 1
        return [order_id for order_id in ids if order_id in self.ended]

    async def ended_since(self, moment: object) -> list[str]:
        self.asked += 1
        return list(self.ended)


def test_thousands_who_wait_cost_one_question_at_a_time_and_none_when_they_are_gone() -> None:
    clock, orders = Clock(), _Orders()
    watch = OrderWatch(clock, clock, orders, 2000, 0.2)
    waiting = [Deferred.fromCoroutine(watch.wait(f"o{n}", 30)) for n in range(2000)]
    assert Deferred.fromCoroutine(watch.wait("one more", 30)).called
    clock.pump([0.2] * 5)
    assert orders.asked == 6 and not any(deferred.called for deferred in waiting)
    orders.ended = {"o5", "somebody else's"}
    clock.advance(0.2)
    assert [n for n, deferred in enumerate(waiting) if deferred.called] == [5]
    clock.advance(30)
    assert all(deferred.called for deferred in waiting)
    clock.advance(1)
    asked = orders.asked
    clock.pump([1] * 10)
    assert orders.asked == asked and not clock.getDelayedCalls()
