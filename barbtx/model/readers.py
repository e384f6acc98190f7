"""Lookups through a pipeline: those of concurrent callers share a statement."""

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
from barbtx.model.pipeline import Execution
from barbtx.reactor import IReactor

Rows: TypeAlias = Sequence[NamedRow | None]


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
        read: Deferred[Sequence[Sequence[Any]]] = Deferred.fromCoroutine(self._send(execution))
        return (
            read.addTimeout(seconds, self.reactor)
            .addErrback(_translate)
            .addCallback(lambda results: in_order(results[0], len(keys)))
        )

    async def _send(self, execution: Execution) -> Sequence[Sequence[Any]]:
        attempt = 0
        while True:
            pipeline = await self.connector.pipeline()
            try:
                return await pipeline.send([execution])
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
                if attempt > self.max_retries:
                    raise


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
