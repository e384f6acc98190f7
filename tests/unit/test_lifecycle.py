"""The parts of a start and a stop that no real server can be made to show."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import attrs
import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from barbtx.config import load
from barbtx.errors import ConfigurationError, ServiceUnavailable
from barbtx.lifecycle import CheckedStart
from barbtx.model.access_gate import AccessGate
from barbtx.reload import Reload
from barbtx.threads import end_pools


@attrs.define
class Database:
    gate: AccessGate = attrs.field(factory=AccessGate)


class Runtime:
    """What a start check needs of one; each check has the next of some outcomes."""

    def __init__(self, *outcomes: BaseException | Deferred | None) -> None:
        self.reactor = Clock()
        self.database = Database()
        self._outcomes = iter(outcomes)

    async def check(self) -> None:
        assert self.database.gate.admits()
        outcome = next(self._outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is not None:
            await outcome


class Failing(Service):
    def startService(self) -> None:
        raise ValueError("no way to start")


def start(runtime: Runtime, service: Service) -> list[str]:
    """Start a service; the reasons for which the start is refused, sooner or later."""
    reasons: list[str] = []
    CheckedStart(runtime, service, reasons.append, 10).startService()
    return reasons


@pytest.mark.parametrize(
    "outcomes",
    [(None,), (ServiceUnavailable("down"), None), (OSError(), ServiceUnavailable("x"), None), (Deferred(), None)],
    ids=["at once", "down", "twice", "hangs"],
)
def test_what_is_started_and_fails_refuses_the_start(outcomes: tuple) -> None:
    runtime = Runtime(*outcomes)
    reasons = start(runtime, Failing())
    runtime.reactor.pump([1] * 15)
    assert reasons == ["startup failed: ValueError: no way to start"]


def test_only_the_check_is_admitted_until_it_has_passed() -> None:
    runtime, service = Runtime(OSError("gone"), Deferred(), ServiceUnavailable("down"), None), Service()
    reasons = start(runtime, service)
    for _ in range(15):
        assert service.running and not runtime.database.gate.admits()
        runtime.reactor.advance(1)
    runtime.reactor.advance(1)
    assert runtime.database.gate.admits() and reasons == []


@pytest.mark.parametrize("before", [(), (ServiceUnavailable("down"),)])
def test_a_refusal_by_a_later_check_counts_as_well(before: tuple) -> None:
    runtime = Runtime(*before, ConfigurationError("not ours"))
    reasons = start(runtime, Service())
    runtime.reactor.advance(2)
    assert reasons == ["not ours"] and not runtime.database.gate.admits()


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_pools_end_in_time_or_are_given_up_together(stuck: threading.Event) -> None:
    pools = [ThreadPool(0, 2, name=f"pool-{number}") for number in range(3)]
    for pool in pools:
        pool.start()
    done = threading.Event()
    pools[0].callInThread(done.set)
    pools[1].callInThread(stuck.wait)
    assert not end_pools(pools, 0.2)
    # The others did what they had.
    assert done.wait(60)


def test_pools_that_end_are_said_to_have_ended() -> None:
    pools = [ThreadPool(0, 2, name=f"pool-{number}") for number in range(3)]
    for pool in pools:
        pool.start()
        pool.callInThread(lambda: None)
    assert end_pools(pools, 60)


def test_a_part_that_cannot_be_reloaded_does_not_hold_up_the_others() -> None:
    conf, done = load(), []

    async def fails(_: object) -> None:
        raise ConfigurationError("no good")

    async def works(_: object) -> None:
        done.append("works")

    reload = Reload(
        conf,
        lambda: succeed(load([], ["api.bind_port=1"])),
        {"one": fails, "two": works},
        others=(lambda: done.append("other"), lambda: 1 / 0, lambda: done.append("last")),
    )
    reload()
    assert done == ["other", "last", "works"]


def test_reloads_that_are_asked_for_meanwhile_are_one_more() -> None:
    waiting: list[Deferred] = []

    def read() -> Deferred:
        waiting.append(Deferred())
        return waiting[-1]

    reload = Reload(load(), read, {})
    for _ in range(5):
        reload()
    assert len(waiting) == 1
    waiting[0].callback(load())
    assert len(waiting) == 2
    waiting[1].callback(load())
    assert len(waiting) == 2
    reload()
    assert len(waiting) == 3
