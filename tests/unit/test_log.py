"""Log lines, as JSON and as text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.application.service import Application
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from barbtx import activity
from barbtx.activity import Activity
from barbtx.config import load
from barbtx.log import LoggingService, json_lines, text_lines


def lines(emit) -> list[dict]:
    stream = io.StringIO()
    emit(Logger("test", observer=json_lines(stream)))
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def text(emit) -> str:
    stream = io.StringIO()
    emit(Logger("test", observer=text_lines(stream)))
    return stream.getvalue()


def test_a_line_has_the_message_and_the_fields_of_its_event() -> None:
    (line,) = lines(lambda log: log.info("order {order_id}\nis due", order_id="o", request_id="req-1", thing=object()))
    assert line["message"] == "order o\nis due" and line["level"] == "info" and line["logger"] == "test"
    assert (line["order_id"], line["request_id"]) == ("o", "req-1") and "thing" not in line


def test_a_failure_has_its_traceback_but_no_local_variables() -> None:
    def emit(log: Logger) -> None:
        hidden = "a payload"
        try:
            raise ValueError(len(hidden))
        except ValueError:
            log.failure("failed", failure=Failure())

    (line,) = lines(emit)
    assert "ValueError: 9" in line["traceback"] and "= 'a payload'" not in line["traceback"]
    shown = text(emit)
    assert "ValueError: 9" in shown and "a payload'" not in shown.replace("hidden = 'a payload'", "")


def test_a_text_line_ends_with_its_ids_and_the_fields_that_its_message_does_not_show() -> None:
    line = text(
        lambda log: log.info("order {order_id} is due", order_id="o", request_id="req-1", user_id="a b", n=None)
    )
    assert re.fullmatch(r'\S+ \[test#info\] order o is due \[order_id=o request_id=req-1 user_id="a b"\]\n', line), line


@given(st.text(), st.text(), st.text())
def test_no_text_makes_a_second_line_or_hides_one(message: str, field: str, problem: str) -> None:
    def emit(log: Logger) -> None:
        try:
            raise ValueError(problem)
        except ValueError:
            log.failure("failed {message}", message=message, user_id=field)

    for shown in (text(emit), text(lambda log: log.info("{message}", message=message, user_id=field))):
        first, *more = shown[:-1].split("\n")
        assert all(part.startswith("\t") and part[1:].isprintable() for part in more) and first.isprintable()
        assert shown.splitlines() == [first, *more]
        shown.encode()


@given(st.text(), st.floats())
def test_a_json_line_is_strict_json(message: str, number: float) -> None:
    (line,) = lines(lambda log: log.info("{message}", message=message, number=number))
    assert line["message"] == message and (isinstance(line["number"], str) or line["number"] == number)


def test_lines_say_whom_the_code_runs_for_in_coroutines_threads_and_callbacks() -> None:
    waiting: Deferred[None] = Deferred()

    async def work(log: Logger) -> None:
        log.info("first")
        await waiting
        log.info("second")

    def emit(log: Logger) -> None:
        kept = []

        def begin() -> None:
            Deferred.fromCoroutine(work(log))
            activity.note(order_id="o")
            kept.append(activity.bind(lambda: log.info("carried")))

        activity.run(Activity(request_id="r"), begin)
        activity.run(Activity(request_id="another"), waiting.callback, None)
        pool = ThreadPool(0, 1)
        pool.start()
        pool.callInThread(kept[0])
        pool.stop()
        log.info("outside")

    assert [(line["message"], line.get("request_id"), line.get("order_id")) for line in lines(emit)] == [
        ("first", "r", None),
        ("second", "r", "o"),
        ("carried", "r", "o"),
        ("outside", None, None),
    ]


def test_an_event_s_own_field_wins() -> None:
    (line,) = lines(lambda log: activity.run(Activity(request_id="r"), log.info, "x", request_id="own"))
    assert line["request_id"] == "own"


def test_an_outage_is_logged_once_in_a_while_with_its_number() -> None:
    stream = io.StringIO()
    observer = json_lines(stream)

    def happens(what: str, moment: int) -> None:
        observer(
            {
                "log_level": LogLevel.warn,
                "log_format": "{what} is down",
                "what": what,
                "log_outage": True,
                "log_time": float(moment),
                "log_namespace": "test",
            }
        )

    for second in range(100):
        happens("it", second)
    happens("another", 99)
    found = [(line["message"], line.get("repeated")) for line in map(json.loads, stream.getvalue().splitlines())]
    assert found == [("it is down", None), *[("it is down", 29)] * 3, ("another is down", None)]


@pytest.mark.parametrize("form", [json_lines, text_lines])
def test_below_info_nothing_is_written_and_twisted_speaks_only_of_trouble(form) -> None:
    stream = io.StringIO()
    observer = form(stream)
    Logger("barbtx.x", observer=observer).debug("no")
    Logger("twisted.internet.protocol.Factory", observer=observer).info("no")
    Logger("twisted.application._client_service.ClientService", observer=observer).info("no")
    assert stream.getvalue() == ""
    Logger("twisted.internet.protocol.Factory", observer=observer).error("yes")
    assert "yes" in stream.getvalue()


class Reactor(Clock):
    """A clock with the hooks of a reactor, which a test calls."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Callable[[], object]] = []
        self.stopped: list[Callable[[], object]] = []

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        self.started.append(call)

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], object]) -> None:
        assert (phase, event) == ("before", "shutdown")
        self.stopped.append(call)


class Installed:
    """The log of an application that writes into a file."""

    def __init__(self, path: Path, **settings: str) -> None:
        self.path = path
        self.reactor = Reactor()
        application = Application("barbtx")
        conf = load([], [f"DEFAULT.{name}={value}" for name, value in settings.items()])
        LoggingService(self.reactor, conf, {"logfile": str(path)}).setServiceParent(application)
        self.log = Logger("barbtx.test", observer=application.getComponent(ILogObserver))

    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.path.read_text().splitlines()]


def test_lines_wait_for_others_only_while_the_reactor_runs(tmp_path: Path) -> None:
    installed = Installed(tmp_path / "log", log_format="json")
    installed.log.info("before")
    assert installed.messages() == ["before"]
    for start in installed.reactor.started:
        start()
    installed.log.info("waits")
    assert installed.messages() == ["before"]
    installed.reactor.advance(0.05)
    assert installed.messages() == ["before", "waits"]
    installed.log.info("waits again")
    for stop in installed.reactor.stopped:
        stop()
    installed.log.info("after")
    assert installed.messages() == ["before", "waits", "waits again", "after"]
    assert not installed.reactor.getDelayedCalls()


@pytest.mark.parametrize("level", [LogLevel.warn, LogLevel.error, LogLevel.critical])
def test_a_warning_is_written_at_once_with_the_lines_before_it(tmp_path: Path, level: Any) -> None:
    installed = Installed(tmp_path / "log", log_format="json")
    for start in installed.reactor.started:
        start()
    installed.log.info("waits")
    installed.log.emit(level, "urgent")
    assert installed.messages() == ["waits", "urgent"]


def test_a_file_is_still_rotated(tmp_path: Path) -> None:
    installed = Installed(tmp_path / "log")
    for start in installed.reactor.started:
        start()
    for _ in range(1500):
        installed.log.info("{text}", text="x" * 1000)
    installed.reactor.advance(1)
    rotated = tmp_path / "log.1"
    assert 1_000_000 <= rotated.stat().st_size < 1_000_000 + 70_000
    assert sum(path.read_text().count("\n") for path in (rotated, installed.path)) == 1500
