"""Queries through a pipeline: those of concurrent callers share a round trip, and lookups also a statement."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs
import psycopg
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from barbtx.model.compiled import CompiledStatement
from barbtx.model.connector import Connector, driver_error
from barbtx.model.database_errors import STALE, classify
from barbtx.model.database_failures import DriverError, bad_value, error_for
from barbtx.model.lookups import Key, NamedRow, in_order, write_keys
from barbtx.model.pipeline import Execution, failed_statement
from barbtx.reactor import IReactor

Rows: TypeAlias = Sequence[NamedRow | None]
#: For each query of a group, the rows that it found.
Results: TypeAlias = Sequence[Sequence[NamedRow]]


class TooSlow(Exception):
    """A query took too long or waited too long for a lock. Its group was ended, so that others need not wait for it.

    :ivar own: whether it was this query, and not another one of its group.
    """

    def __init__(self, own: bool) -> None:
        super().__init__(own)
        self.own = own


@attrs.frozen
class PipelineReader:
    """Finds the rows of one lookup in PostgreSQL through a pipeline.

    :ivar max_retries: retries after the connection was lost.
    """

    reactor: IReactor
    connector: Connector
    statement: CompiledStatement
    max_retries: int

    def find(self, keys: Sequence[Key], now: datetime.datetime | None, seconds: float) -> Deferred[Rows]:
        """Find the rows of keys; None for a key that has none.

        :param now: the time of the lookup, if the query uses it.
        :param seconds: timeout, including the time to connect.
        :raises BadRequest: (asynchronously) the database does not accept a key.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow.
        """
        execution = Execution(self.statement, self.statement.parameters({"keys": write_keys(keys), "now": now}))
        return (
            _read(self.reactor, self.connector, [execution], self.max_retries, seconds)
            .addErrback(_translate)
            .addCallback(lambda results: in_order(results[0], len(keys)))
        )


@attrs.frozen
class PipelineFetcher:
    """Executes groups of queries in PostgreSQL through a pipeline.

    :ivar max_retries: retries after the connection was lost.
    """

    reactor: IReactor
    connector: Connector
    max_retries: int

    def fetch(self, queries: Sequence[Execution], seconds: float) -> Deferred[Sequence[Sequence[NamedRow] | TooSlow]]:
        """Execute queries. If one fails, all fail.

        :param seconds: timeout, including the time to connect.
        :return: fires with the rows of each query; with an exception for each if one took longer than the timeouts of
            the connection.
        :raises BadRequest: (asynchronously) the database does not accept a value.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow.
        """
        results = _read(self.reactor, self.connector, queries, self.max_retries, seconds)
        answers: Deferred[Any] = results.addErrback(_find_slow, len(queries)).addErrback(_translate)
        return answers


def _read(
    reactor: IReactor, connector: Connector, queries: Sequence[Execution], max_retries: int, seconds: float
) -> Deferred[Results]:
    """Execute queries, again after the connection was lost. The errors are those that :func:`driver_error` knows."""
    results: Deferred[Results] = Deferred.fromCoroutine(_send(connector, queries, max_retries))
    return results.addTimeout(seconds, reactor)


async def _send(connector: Connector, queries: Sequence[Execution], max_retries: int) -> Results:
    attempt = 0
    while True:
        pipeline = await connector.pipeline()
        try:
            return await pipeline.send(queries)
        except CancelledError:
            # The server may be frozen; what is sent after this would wait as well.
            pipeline.abort()
            raise
        except psycopg.Error as error:
            if classify(error).kind not in STALE:
                raise
            # A new connection may lead to another server.
            pipeline.abort()
            attempt += 1
            if attempt > max_retries:
                raise


def _find_slow(failure: Failure, count: int) -> Failure | list[TooSlow]:
    error = failure.value
    if isinstance(error, (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)):
        slow = failed_statement(error)
        return [TooSlow(own=number == slow) for number in range(count)]
    return failure


def _translate(failure: Failure) -> Failure:
    """Raise the exception that callers get for a failure.

    :raises DriverError: it is a bug in barbtx.
    """
    error = driver_error(failure)
    if isinstance(error, ValueError):
        raise bad_value() from None
    if isinstance(error, psycopg.Error):
        problem = classify(error)
        raise error_for(problem, committing=False) or DriverError(str(problem)) from None
    return failure
