"""Startup and shutdown of a process, with services that fail, block or take too long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import attrs
import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.threadpool import ThreadPool

from barbtx.config import load
from barbtx.errors import ConfigurationError, ServiceUnavailable
from barbtx.lifecycle import CheckedStart, DatabaseService, ProcessExit, Stack, stop_reactor
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


def test_nothing_is_refused_or_logged_if_the_process_stops_during_the_check() -> None:
    runtime, service, reasons = Runtime(Deferred()), Service(), []
    checked = CheckedStart(runtime, service, reasons.append, 10)
    checked.startService()
    with capturedLogs() as events:
        checked.stopService()
        runtime.reactor.advance(60)
    assert not service.running and not checked.running and reasons == [] and events == []
    assert runtime.reactor.getDelayedCalls() == []


def test_the_same_reason_is_logged_once_a_minute_and_another_one_at_once() -> None:
    runtime = Runtime(*[ServiceUnavailable("down")] * 40, ServiceUnavailable("slow"), None)
    with capturedLogs() as events:
        start(runtime, Service())
        runtime.reactor.pump([1] * 90)
    assert [event["reason"] for event in events] == ["down", "down", "slow"]


class Recording(Service):
    """Records when it starts and stops; its stop waits for a Deferred if it has one."""

    def __init__(self, name: str, events: list[str], stopping: Deferred | Exception | None = None) -> None:
        self.label = name
        self.events = events
        self.stopping = stopping

    def startService(self) -> None:
        super().startService()
        self.events.append(f"start {self.label}")

    def stopService(self) -> Deferred | None:
        super().stopService()
        self.events.append(f"stop {self.label}")
        if isinstance(self.stopping, Exception):
            raise self.stopping
        return self.stopping


def test_a_service_stops_completely_before_the_one_below_it() -> None:
    events: list[str] = []
    top: Deferred[None] = Deferred()
    stack = Stack.of(Recording("bottom", events), Recording("middle", events), Recording("top", events, top))
    stack.startService()
    stopped = stack.stopService()
    assert events == ["start bottom", "start middle", "start top", "stop top"]
    assert not stopped.called and not stack.running
    top.callback(None)
    assert events[4:] == ["stop middle", "stop bottom"] and stopped.called


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_service_that_fails_to_stop_does_not_keep_the_others_running(asynchronous: bool) -> None:
    events: list[str] = []
    failure = ValueError("does not stop")
    stack = Stack.of(Recording("bottom", events), Recording("top", events, fail(failure) if asynchronous else failure))
    stack.startService()
    with capturedLogs() as logged:
        stopped = stack.stopService()
    assert stopped.called and events[2:] == ["stop top", "stop bottom"]
    assert [formatEvent(event) for event in logged] == ["Recording failed to stop cleanly"]


@attrs.define
class Exits:
    """Records the exit statuses with which a process would end."""

    statuses: list[int] = attrs.field(factory=list)
    happened: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, status: int) -> None:
        self.statuses.append(status)
        self.happened.set()


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """The functions that are registered to run when the interpreter exits."""
    functions: list[Callable[[], None]] = []
    monkeypatch.setattr("barbtx.lifecycle.atexit.register", functions.append)
    return functions


def test_a_refused_startup_stops_the_reactor_and_exits_with_status_1(at_exit: list[Callable[[], None]]) -> None:
    reactor, exits = MemoryReactorClock(), Exits()
    process_exit = ProcessExit(reactor, 60, 60, exits)
    with capturedLogs() as events:
        process_exit.refuse("no such table")
        process_exit.refuse("another reason")
    assert [formatEvent(event) for event in events] == ["barbtx: no such table", "barbtx: another reason"]
    assert not reactor.hasStopped
    reactor.run()
    assert reactor.hasStopped and exits.statuses == []
    (at_the_end,) = at_exit
    at_the_end()
    assert exits.statuses == [1]


@pytest.mark.parametrize(("refused", "status"), [(False, 0), (True, 1)])
def test_a_shutdown_that_times_out_ends_the_process(
    at_exit: list[Callable[[], None]], refused: bool, status: int
) -> None:
    reactor, exits = MemoryReactorClock(), Exits()
    process_exit = ProcessExit(reactor, 0.01, 60, exits)
    process_exit.startService()
    if refused:
        process_exit.refuse("no such table")
    assert not exits.happened.wait(0.1)
    ((call, arguments, options),) = reactor.triggers["before"]["shutdown"]
    call(*arguments, **options)
    assert exits.happened.wait(60) and exits.statuses[0] == status


def test_busy_threads_are_waited_for_until_a_limit() -> None:
    exits = Exits()
    process_exit = ProcessExit(MemoryReactorClock(), 60, 0.01, exits)
    process_exit.startService()
    process_exit.without_waiting_if(lambda: False)
    process_exit.stopService()
    assert exits.happened.wait(60) and exits.statuses[0] == 0


def test_threads_are_not_waited_for_if_their_work_was_released() -> None:
    exits = Exits()
    process_exit = ProcessExit(MemoryReactorClock(), 60, 3600, exits)
    process_exit.startService()
    process_exit.without_waiting_if(lambda: False)
    process_exit.without_waiting_if(lambda: True)
    process_exit.stopService()
    assert exits.statuses == [0]


def test_a_reactor_that_has_stopped_already_is_left_alone() -> None:
    class Stopped:
        def stop(self) -> None:
            raise ReactorNotRunning

    stop_reactor(Stopped())


@attrs.define
class ThreadedDatabase:
    """A database whose stop has a given outcome, once it is released."""

    outcome: bool | Exception
    released: threading.Event = attrs.field(factory=threading.Event)
    started: bool = False
    limit: float | None = None

    @property
    def reactor(self) -> ThreadedDatabase:
        return self

    def callFromThread(self, function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)

    def start(self) -> None:
        self.started = True

    def stop(self, seconds: float) -> bool:
        self.limit = seconds
        assert self.released.wait(60)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "logged"),
    [
        (True, []),
        (False, ["the database did not respond within 7 s; transactions in flight are abandoned"]),
        (ValueError("does not stop"), []),
    ],
)
def test_a_stop_of_the_database_does_not_block_the_reactor(outcome: bool | Exception, logged: list[str]) -> None:
    database, ended, results = ThreadedDatabase(outcome), threading.Event(), []
    service = DatabaseService(database, 7)
    service.startService()
    assert database.started
    with capturedLogs() as events:
        stopped = service.stopService()
        stopped.addBoth(results.append).addBoth(lambda _: ended.set())
        assert not ended.is_set()
        database.released.set()
        assert ended.wait(60)
    assert database.limit == 7 and [formatEvent(event) for event in events] == logged
    if isinstance(outcome, Exception):
        assert results[0].value is outcome
    else:
        assert results == [None]


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
