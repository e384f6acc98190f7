"""How a process starts and ends: the order of its services, the checks before it serves, and an end that is bounded."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from oslo_config import cfg
from sqlalchemy.exc import DBAPIError
from twisted.application.service import MultiService, Service
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx.errors import ConfigurationError, ServiceUnavailable
from barbtx.model.database import Database
from barbtx.runtime import Runtime

OPTIONS = {
    "DEFAULT": [
        cfg.FloatOpt(
            "start_check_seconds",
            default=30.0,
            min=1,
            help="Longest time for the check of database and keys at a start; then it is tried again.",
        ),
        cfg.FloatOpt(
            "thread_shutdown_seconds",
            default=5.0,
            min=0,
            help="How long a stopping process waits for threads that are still at work, for instance on a database "
            "that does not answer; then it ends without them.",
        ),
        cfg.FloatOpt(
            "graceful_shutdown_timeout",
            default=60.0,
            min=1,
            help="Longest time that a stop may take in all; then the process ends, whatever is under way.",
        ),
    ],
}

log = Logger()

_CHECK_AGAIN_SECONDS = 2.0
# The same reason for which a start is held up is logged this often.
_SAY_AGAIN_SECONDS = 60.0
# What may be different at the next try. Twisted's connection errors are no OSError.
_TRANSIENT = (ServiceUnavailable, OSError, DeferredTimeout, error.ConnectError, error.ConnectionClosed, CancelledError)


class ProcessExit(Service):
    """Ends the process in good order, or without waiting if that takes too long, with a status that tells why.

    It must be the first service of a process, so that it is the last one to be stopped. Threads cannot be ended from
    outside, and both Twisted and the interpreter wait for them without a limit.

    :param total: seconds that a stop may take in all.
    :param threads: of these, seconds for threads that are at work after all services have stopped.
    :param end: ends the process with a status.
    """

    def __init__(self, reactor: Any, total: float, threads: float, end: Callable[[int], None] = os._exit) -> None:
        self._reactor = reactor
        self._total = total
        self._threads = threads
        self._end = end
        self._status = 0
        self._abandoned: list[Callable[[], bool]] = []

    @classmethod
    def from_config(cls, reactor: Any, conf: cfg.ConfigOpts) -> ProcessExit:
        """As the configuration wants it."""
        return cls(reactor, conf.graceful_shutdown_timeout, conf.thread_shutdown_seconds)

    def startService(self) -> None:
        super().startService()
        self._reactor.addSystemEventTrigger(
            "before",
            "shutdown",
            self._limit,
            self._total,
            "the stop takes too long; ending without what is still under way",
        )

    def stopService(self) -> None:
        super().stopService()
        if any(abandoned() for abandoned in self._abandoned):
            log.info("stopping without waiting for what was given back")
            self._now()
        else:
            self._limit(self._threads, "threads are still at work; ending without them")

    def without_waiting_if(self, abandoned: Callable[[], bool]) -> None:
        """Do not wait for threads if a condition holds once all services have stopped: nobody wants their outcome."""
        self._abandoned.append(abandoned)

    def refuse(self, reason: str) -> None:
        """Say what is wrong and stop in good order, with exit status 1."""
        log.critical("barbtx: {reason}", reason=reason)
        if self._status == 0:
            self._status = 1
            # At the very end, so that twistd can remove its pid file.
            atexit.register(self._now)
            # A start can be refused before the reactor runs.
            self._reactor.callWhenRunning(stop_reactor, self._reactor)

    def _limit(self, seconds: float, text: str) -> None:
        def over() -> None:
            # The log can block as well.
            self._timer(2.0, lambda: self._end(self._status))
            log.warn("{text}", text=text)
            self._now()

        self._timer(seconds, over)

    def _timer(self, seconds: float, call: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()

    def _now(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        self._end(self._status)


def stop_reactor(reactor: Any) -> None:
    """Stop a reactor, unless it is stopping already."""
    try:
        reactor.stop()
    except error.ReactorNotRunning:
        pass


class DatabaseService(Service):
    """Runs the database's threads.

    :param seconds: for which a stop waits for transactions under way.
    """

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._seconds = seconds

    def startService(self) -> None:
        super().startService()
        self._database.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        stopped: Deferred[bool] = Deferred()

        def stop() -> None:
            try:
                outcome: object = self._database.stop(self._seconds)
            except Exception:
                outcome = Failure()
            self._database.reactor.callFromThread(stopped.callback, outcome)

        threading.Thread(target=stop, name="database-stop", daemon=True).start()
        return stopped.addCallback(self._stopped)

    def _stopped(self, in_time: bool) -> None:
        if not in_time:
            log.warn(
                "the database did not answer within {seconds} s; its transactions under way are given up",
                seconds=self._seconds,
            )


class Stack(MultiService):
    """Services that stand on each other: each stops completely before the one below it does."""

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                log.failure("{service} did not stop as it should", service=type(service).__name__)


class CheckedStart(Service):
    """Starts a service once the checks allow it, and ends the process if they never will.

    What may pass is no reason not to start: a database that is down, or a check that does not end. The service then runs,
    and requests are answered with 503, until a later check has passed; before that nothing but the check is let to the
    database. Everything else that a check raises is a reason to refuse the start.

    :param refuse: is told why.
    :param seconds: longest time for one check.
    """

    def __init__(self, runtime: Runtime, service: Service, refuse: Callable[[str], None], seconds: float) -> None:
        self._foundation = runtime
        self._service = service
        self._refuse = refuse
        self._seconds = seconds
        self._checking: Deferred[None] | None = None
        self._said: tuple[str, float] | None = None

    def startService(self) -> None:
        super().startService()
        self._checking = Deferred.fromCoroutine(self._check())
        self._checking.addErrback(self._ended)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        self._checking.cancel()
        return maybeDeferred(self._service.stopService) if self._service.running else None

    def _ended(self, failure: Failure) -> None:
        if not (failure.check(CancelledError) and not self.running):
            log.failure("the start failed", failure=failure)
            self._refuse(f"the start failed: {_reason(failure.value)}")

    async def _check(self) -> None:
        reactor, database = self._foundation.reactor, self._foundation.database
        database.gate.close()
        while True:
            try:
                with database.gate.exempt():
                    await Deferred.fromCoroutine(self._foundation.check()).addTimeout(self._seconds, reactor)
                break
            except ConfigurationError as problem:
                self._refuse(str(problem))
                return
            except _TRANSIENT as problem:
                if not self.running:
                    raise
                self._say(reactor.seconds(), _reason(problem))
                self._start()
                await deferLater(reactor, _CHECK_AGAIN_SECONDS, lambda: None)
        database.gate.open()
        self._start()

    def _start(self) -> None:
        if not self._service.running:
            self._service.startService()

    def _say(self, now: float, reason: str) -> None:
        if self._said is None or self._said[0] != reason or now - self._said[1] >= _SAY_AGAIN_SECONDS:
            self._said = reason, now
            log.warn(
                "database and keys cannot be checked yet, and nothing is served before that: {reason}", reason=reason
            )


def _reason(problem: BaseException) -> str:
    """One line about a failure. Statements and their parameters are no part of it."""
    if isinstance(problem, DeferredTimeout):
        return "the check does not end"
    if isinstance(problem, ServiceUnavailable):
        return problem.description
    source = problem.orig if isinstance(problem, DBAPIError) else problem
    text = " ".join(str(source).split())[:300]
    return f"{type(source).__name__}: {text}" if text else type(source).__name__
