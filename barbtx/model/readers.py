"""Queries through a pipeline. Lookups of concurrent callers share a statement; other queries do not."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TypeAlias

import attrs
import psycopg
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from barbtx.model.compiled import CompiledStatement
from barbtx.model.connector import Connector, driver_error
from barbtx.model.database_errors import STALE, classify
from barbtx.model.database_failures import DriverError, bad_value, raise_for
from barbtx.model.lookups import Key, NamedRow, in_order, write_keys
from barbtx.model.pipeline import Execution
from barbtx.reactor import IReactor

Rows: TypeAlias = Sequence[NamedRow | None]


class TooSlow(Exception):
    """A query took too long or waited too long for a lock. It was ended, so that others need not wait for it."""


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
            read(self.reactor, self.connector, execution, self.max_retries, seconds)
            .addErrback(_translate)
            .addCallback(lambda rows: in_order(rows, len(keys)))
        )


@attrs.frozen
class PipelineFetcher:
    """Executes queries in PostgreSQL through a pipeline, each by itself, so that it may fail alone.

    :ivar max_retries: retries after the connection was lost.
    """

    reactor: IReactor
    connector: Connector
    max_retries: int

    def fetch(self, execution: Execution, seconds: float) -> Deferred[Sequence[NamedRow]]:
        """Execute a query.

        :param seconds: timeout, including the time to connect.
        :return: fires with its rows.
        :raises TooSlow: (asynchronously) the server took longer than the connection's timeouts allow.
        :raises BadRequest: (asynchronously) the database does not accept a value.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow.
        """
        rows = read(self.reactor, self.connector, execution, self.max_retries, seconds)
        return rows.addErrback(_find_slow).addErrback(_translate)


def read(
    reactor: IReactor, connector: Connector, execution: Execution, max_retries: int, seconds: float
) -> Deferred[Sequence[NamedRow]]:
    """Execute a query through a pipeline, and again after the connection was lost.

    :param seconds: timeout, including the time to connect.
    :return: fires with its rows, or fails with an error that :func:`driver_error` knows.
    """
    rows: Deferred[Sequence[NamedRow]] = Deferred.fromCoroutine(_read(connector, execution, max_retries))
    return rows.addTimeout(seconds, reactor)


async def _read(connector: Connector, execution: Execution, max_retries: int) -> Sequence[NamedRow]:
    attempt = 0
    while True:
        pipeline = await connector.pipeline()
        try:
            (rows,) = await pipeline.send([execution])
            return rows
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


def _find_slow(failure: Failure) -> Failure:
    if isinstance(failure.value, (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)):
        raise TooSlow from None
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
        raise_for(problem, committing=False)
        raise DriverError(str(problem)) from None
    return failure
