"""Startup and shutdown of a process: the order of its services, the startup check, and a bounded shutdown."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from oslo_config import cfg
from sqlalchemy.exc import DBAPIError
from twisted.application.service import IService, MultiService, Service
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx.errors import ConfigurationError, ServiceUnavailable, one_line
from barbtx.model.database import Database
from barbtx.reactor import IReactor
from barbtx.runtime import Runtime

OPTIONS = {
    "DEFAULT": [
        cfg.FloatOpt(
            "start_check_seconds",
            default=30.0,
            min=1,
            help="Timeout of one startup check of the database and the master keys, in seconds. The check is "
            "retried until it succeeds; until then requests get 503.",
        ),
        cfg.FloatOpt(
            "thread_shutdown_seconds",
            default=5.0,
            min=0,
            help="How long a shutdown waits for busy threads after all services have stopped, in seconds; then the "
            "process exits without them. Threads are busy, for instance, while the database does not respond. With 0 "
            "the shutdown does not wait for them.",
        ),
        cfg.FloatOpt(
            "graceful_shutdown_timeout",
            default=60.0,
            min=1,
            help="Timeout of the whole shutdown, in seconds; then the process exits with work still in flight. Make it "
            "longer than [queue] shutdown_seconds, and shorter than the time after which the service manager kills "
            "the process, such as TimeoutStopSec of systemd.",
        ),
    ],
}

log = Logger()

_RETRY_SECONDS = 2.0
# The interval at which the same reason for an incomplete check is logged again.
_LOG_AGAIN_SECONDS = 60.0
# Errors that a retry may not meet again. Twisted's connection errors are not subclasses of OSError.
_TRANSIENT = (ServiceUnavailable, OSError, DeferredTimeout, error.ConnectError, error.ConnectionClosed, CancelledError)


class ProcessExit(Service):
    """Limits the duration of a shutdown, and ends a process whose startup was refused with exit status 1.

    It must be the first service of a process, so that it is stopped last. Threads cannot be terminated from outside,
    and both Twisted and the interpreter wait for them without a limit; this service ends the process instead.

    :param total: limit for the whole shutdown, in seconds.
    :param threads: how long to wait for busy threads after all services have stopped, in seconds.
    :param end: ends the process with an exit status.
    """

    def __init__(self, reactor: IReactor, total: float, threads: float, end: Callable[[int], None] = os._exit) -> None:
        self._reactor = reactor
        self._total = total
        self._threads = threads
        self._end = end
        self._status = 0
        self._released: list[Callable[[], bool]] = []

    @classmethod
    def from_config(cls, reactor: IReactor, conf: cfg.ConfigOpts, extra: float = 0) -> ProcessExit:
        """Make one with the configured limits.

        :param extra: seconds for which the shutdown may take longer than configured.
        """
        return cls(reactor, conf.graceful_shutdown_timeout + extra, conf.thread_shutdown_seconds)

    def startService(self) -> None:
        """Arrange for the limit to start with the shutdown."""
        super().startService()
        self._reactor.addSystemEventTrigger(
            "before",
            "shutdown",
            self._limit,
            self._total,
            "shutdown timed out; exiting with work still in flight",
        )

    def stopService(self) -> None:
        """Wait for busy threads, up to the limit; not at all if work was released to other processes."""
        super().stopService()
        if any(released() for released in self._released):
            log.info("exiting without waiting for work that was released to other processes")
            self._now()
        else:
            self._limit(self._threads, "threads are still busy; exiting without them")

    def without_waiting_if(self, released: Callable[[], bool]) -> None:
        """Register a condition: if it holds once all services have stopped, the process exits without its threads."""
        self._released.append(released)

    def refuse(self, reason: str) -> None:
        """Log the reason why the process cannot run and shut it down, with exit status 1."""
        log.critical("barbtx: {reason}", reason=reason)
        self.fail()

    def fail(self) -> None:
        """Shut the process down, with exit status 1."""
        if self._status == 0:
            self._status = 1
            # Exit last of all, so that twistd can remove its pid file.
            atexit.register(self._now)
            # The startup can be refused before the reactor runs.
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
            with suppress(OSError, ValueError):
                stream.flush()
        self._end(self._status)


def stop_reactor(reactor: IReactor) -> None:
    """Stop a reactor, unless it is stopping or stopped already."""
    with suppress(error.ReactorNotRunning):
        reactor.stop()


class DatabaseService(Service):
    """Runs the database's threads.

    :param seconds: how long a shutdown waits for transactions in flight.
    """

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._reactor = database.reactor
        self._seconds = seconds

    def startService(self) -> None:
        """Start the database's threads."""
        super().startService()
        self._database.start()

    def stopService(self) -> Deferred[None]:
        """Stop them; the Deferred fires when transactions in flight have ended, or after the limit."""
        super().stopService()
        stopped: Deferred[bool] = Deferred()

        def stop() -> None:
            try:
                outcome: object = self._database.stop(self._seconds)
            except Exception:
                outcome = Failure()
            self._reactor.callFromThread(stopped.callback, outcome)

        threading.Thread(target=stop, name="database-stop", daemon=True).start()
        return stopped.addCallback(self._stopped)

    def _stopped(self, in_time: bool) -> None:
        if not in_time:
            log.warn(
                "the database did not respond within {seconds} s; transactions in flight are abandoned",
                seconds=self._seconds,
            )


class Stack(MultiService):
    """A stack of services: at shutdown each one stops completely before the one below it, which it uses, is stopped."""

    @classmethod
    def of(cls, *services: IService) -> Stack:
        """Make a stack that starts the services in this order and stops them in reverse order."""
        stack = cls()
        for service in services:
            service.setServiceParent(stack)
        return stack

    def stopService(self) -> Deferred[None]:
        """Stop the services, the last one first."""
        # MultiService.stopService, which super() would call, stops all services at the same time.
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                log.failure("{service} failed to stop cleanly", service=type(service).__name__)


class CheckedStart(Service):
    """Starts a service after the startup check, and ends the process if the check cannot succeed.

    A transient failure, such as a database that is down or a check that times out, does not prevent the startup: the
    service runs, requests get 503, and the check is retried until it succeeds. Until then only the check itself has
    access to the database. Any other exception refuses the startup.

    :param refuse: called with the reason for which the process must end.
    :param seconds: timeout of one check.
    :param check_first: whether the service starts only after the check has succeeded, because other processes serve.
    """

    def __init__(
        self,
        runtime: Runtime,
        service: Service,
        refuse: Callable[[str], None],
        seconds: float,
        check_first: bool = False,
    ) -> None:
        self._runtime = runtime
        self._service = service
        self._refuse = refuse
        self._seconds = seconds
        self._check_first = check_first
        self._checking: Deferred[None] | None = None
        self._logged: tuple[str, float] | None = None

    def startService(self) -> None:
        """Begin the check."""
        super().startService()
        self._checking = Deferred.fromCoroutine(self._check())
        self._checking.addErrback(self._ended)

    def stopService(self) -> Deferred[None] | None:
        """Cancel the check and stop the service."""
        super().stopService()
        if self._checking is not None:
            self._checking.cancel()
        return maybeDeferred(self._service.stopService) if self._service.running else None

    def _ended(self, failure: Failure) -> None:
        if not (failure.check(CancelledError) and not self.running):
            log.failure("startup failed", failure=failure)
            self._refuse(f"startup failed: {_reason(failure.value)}")

    async def _check(self) -> None:
        reactor, database = self._runtime.reactor, self._runtime.database
        database.gate.close()
        while True:
            try:
                with database.gate.exempt():
                    await Deferred.fromCoroutine(self._runtime.check()).addTimeout(self._seconds, reactor)
                break
            except ConfigurationError as problem:
                self._refuse(str(problem))
                return
            except _TRANSIENT as problem:
                if not self.running:
                    raise
                self._log_once(reactor.seconds(), _reason(problem))
                if not self._check_first:
                    self._start()
                await deferLater(reactor, _RETRY_SECONDS, lambda: None)
        database.gate.open()
        self._start()

    def _start(self) -> None:
        if not self._service.running:
            self._service.startService()

    def _log_once(self, now: float, reason: str) -> None:
        if self._logged is None or self._logged[0] != reason or now - self._logged[1] >= _LOG_AGAIN_SECONDS:
            self._logged = reason, now
            log.warn(
                "the startup check is not complete; {consequence} until it is: {reason}",
                consequence="the process does not listen" if self._check_first else "requests get 503",
                reason=reason,
            )


def _reason(problem: BaseException | None) -> str:
    """Describe a failure in one line, without SQL statements and their parameters."""
    if isinstance(problem, DeferredTimeout):
        return "the check timed out"
    if isinstance(problem, ServiceUnavailable):
        return problem.description or "a dependency is unavailable"
    source = problem.orig if isinstance(problem, DBAPIError) else problem
    text = one_line(source, 300)
    return f"{type(source).__name__}: {text}" if text else type(source).__name__
