"""Keeping one pipeline to PostgreSQL: connecting in a thread, and again after the connection was lost."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, cast

import attrs
import psycopg
from sqlalchemy import exc
from sqlalchemy.engine import Engine
from twisted.application.internet import backoffPolicy
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from barbtx.model.database_failures import DatabaseUnavailable
from barbtx.model.database_time import READ_POSTGRESQL_TIME
from barbtx.model.engine import is_read_only
from barbtx.model.pipeline import Pipeline
from barbtx.reactor import IReactor

# Each statement finds its rows by an index, and its plan is made once. The planner must not choose another way because
# a table was empty then, or because the statistics are of a time when it was. Nothing is to be retried for the sake of
# a stricter isolation, which is the default of some databases.
_PLANNING = {
    "default_transaction_isolation": "read committed",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
}

_backoff = backoffPolicy(initialDelay=0.02, maxDelay=0.5, factor=2.0)


def connect(engine: Engine, timeout: float) -> tuple[psycopg.Connection[Any], datetime.datetime]:
    """Make a connection as an engine does, outside of its pool. The call blocks.

    :param timeout: seconds after which the server ends a statement, or its wait for a lock. Callers must wait longer,
        so that they know of their writes that they have changed nothing.
    :return: the connection, and the time by the server's clock.
    :raises psycopg.Error: the server cannot be reached, or refuses the connection.
    """
    # A pool of its own: connections in the engine's pool may be older than a restart of the server.
    pooled = engine.pool.recreate().connect()
    connection = pooled.driver_connection
    assert isinstance(connection, psycopg.Connection)
    try:
        connection.autocommit = True
        milliseconds = str(int(timeout * 1000))
        settings = dict.fromkeys(("lock_timeout", "statement_timeout"), milliseconds) | _PLANNING
        calls = ", ".join(["set_config(%s, %s, false)"] * len(settings))
        connection.execute(f"SELECT {calls}", [text for setting in settings.items() for text in setting])
        ((server_time,),) = connection.execute(READ_POSTGRESQL_TIME).fetchall()
    except psycopg.Error:
        pooled.invalidate()
        raise
    pooled.detach()
    return connection, server_time


def driver_error(failure: Failure) -> BaseException:
    """Return the driver's error of a failure, or any other one that is not about the connection.

    :raises DatabaseUnavailable: no connection was made, or no response came, in time.
    """
    error = failure.value
    if isinstance(error, defer.TimeoutError):
        raise DatabaseUnavailable("no response in time") from None
    if isinstance(error, exc.TimeoutError):
        raise DatabaseUnavailable("no free connection") from None
    if isinstance(error, OSError):
        raise DatabaseUnavailable(f"{type(error).__name__}: {error.strerror}") from None
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig
    return cast(BaseException, error)


@attrs.define(eq=False)
class Connector:
    """Keeps one pipeline. It connects when the pipeline is needed.

    :ivar connect: makes a connection in a thread of ``threads``.
    """

    reactor: IReactor
    threads: ThreadPool
    connect: Callable[[], tuple[psycopg.Connection[Any], datetime.datetime]]
    _pipeline: Pipeline | None = attrs.field(default=None, init=False)
    _waiting: list[Deferred[Pipeline]] = attrs.field(factory=list, init=False)
    _connecting: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _failure: Failure | None = attrs.field(default=None, init=False)
    _retry_at: float = attrs.field(default=0.0, init=False)

    @property
    def connected(self) -> bool:
        """Whether the pipeline is connected, as far as is known."""
        return self._pipeline is not None and not self._pipeline.lost

    @property
    def in_flight(self) -> int:
        """How many groups of statements are in flight."""
        return self._pipeline.in_flight if self._pipeline is not None else 0

    async def pipeline(self) -> Pipeline:
        """Return the pipeline, once it is connected.

        Shortly after an attempt to connect has failed, the call fails at once for the same reason.

        :raises psycopg.Error: the server cannot be reached, or refuses the connection.
        """
        pipeline = self._pipeline
        if pipeline is not None and not pipeline.lost:
            if not is_read_only(pipeline.parameter_status, self.reactor.seconds() - pipeline.since):
                return pipeline
            # The server was demoted; the primary is another one now.
            pipeline.abort()
        if self._failure is not None and self.reactor.seconds() < self._retry_at:
            # The traceback would grow with each caller, and keep what their frames refer to.
            raise cast(Exception, self._failure.value).with_traceback(None)
        waiting: Deferred[Pipeline] = Deferred()
        self._waiting.append(waiting)
        if not self._connecting:
            self._connecting = True
            deferToThreadPool(self.reactor, self.threads, self.connect).addCallback(self._connected).addErrback(
                self._failed
            )
        return await waiting

    def _connected(self, connected: tuple[psycopg.Connection[Any], datetime.datetime]) -> None:
        connection, server_time = connected
        if self._closed:
            connection.close()
            raise exc.TimeoutError
        try:
            self._pipeline = pipeline = Pipeline(self.reactor, connection, server_time)
        except OSError:
            # No descriptor is free.
            connection.close()
            raise
        self._failures, self._failure = 0, None
        self._end(lambda waiting: waiting.callback(pipeline))

    def _failed(self, failure: Failure) -> None:
        failure.cleanFailure()
        self._failures += 1
        self._failure = failure
        self._retry_at = self.reactor.seconds() + _backoff(self._failures)
        self._end(lambda waiting: waiting.errback(cast(Exception, failure.value).with_traceback(None)))

    def _end(self, report: Callable[[Deferred[Pipeline]], None]) -> None:
        self._connecting = False
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if not deferred.called:
                report(deferred)

    def close(self) -> None:
        """Close the connection, and do not connect again."""
        self._closed = True
        if self._pipeline is not None:
            self._pipeline.abort()
