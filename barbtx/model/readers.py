"""The two ways of looking up many rows at once: in a transaction on a thread, and through a pipeline."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import attrs
import psycopg
from sqlalchemy import exc
from sqlalchemy.orm import Session
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred

from barbtx.model.compiled import CompiledStatement
from barbtx.model.connector import Connector
from barbtx.model.database_errors import STALE, classify
from barbtx.model.database_failures import DriverError, bad_value, raise_for, unavailable
from barbtx.model.lookups import Key, Lookup, NamedRow, Query, in_order, write_keys
from barbtx.model.pipeline import Execution
from barbtx.reactor import IReactor

Rows: TypeAlias = Sequence[NamedRow | None]


class Reader(Protocol):
    """Finds the rows of a lookup."""

    def find(self, lookup: Lookup, keys: Sequence[Key], now: datetime.datetime | None) -> Deferred[Rows]:
        """Find the rows of keys; None for a key that has none.

        :raises BadRequest: (asynchronously) the database does not accept a key.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow.
        """
        ...

    def select(self, query: Query, group: Sequence[Mapping[str, Any]]) -> Deferred[Sequence[Sequence[NamedRow]]]:
        """Execute a query once for each of several sets of parameters; the results have the same order.

        :raises BadRequest: (asynchronously) the database does not accept a parameter.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow.
        """
        ...


@attrs.frozen
class PipelineReader:
    """Finds rows in PostgreSQL through a pipeline.

    :ivar timeout: seconds that a lookup may take, including the time to connect.
    :ivar max_retries: retries of one lookup after the connection was lost.
    """

    reactor: IReactor
    connector: Connector
    timeout: float
    max_retries: int
    _compiled: dict[Lookup | Query, CompiledStatement] = attrs.field(factory=dict, init=False, repr=False)

    def find(self, lookup: Lookup, keys: Sequence[Key], now: datetime.datetime | None) -> Deferred[Rows]:
        """See :meth:`Reader.find`."""
        statement = self._compiled.get(lookup)
        if statement is None:
            statement = self._compiled[lookup] = CompiledStatement.of(lookup.statement("postgresql"))
        execution = Execution(statement, statement.parameters({"keys": write_keys(keys), "now": now}))
        return self._read([execution]).addCallback(lambda results: in_order(results[0], len(keys)))

    def select(self, query: Query, group: Sequence[Mapping[str, Any]]) -> Deferred[Sequence[Sequence[NamedRow]]]:
        """See :meth:`Reader.select`."""
        statement = self._compiled.get(query)
        if statement is None:
            statement = self._compiled[query] = CompiledStatement.of(query.statement)
        return self._read([Execution(statement, statement.parameters(values)) for values in group])

    def _read(self, group: Sequence[Execution]) -> Deferred[Sequence[Sequence[NamedRow]]]:
        read: Deferred[Sequence[Sequence[NamedRow]]] = Deferred.fromCoroutine(self._send(group))
        return read.addTimeout(self.timeout, self.reactor).addErrback(_translate)

    async def _send(self, group: Sequence[Execution]) -> Sequence[Sequence[NamedRow]]:
        attempt = 0
        while True:
            pipeline = await self.connector.pipeline()
            try:
                return await pipeline.send(group)
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


def _translate(failure: Any) -> Any:
    """Raise the exception that callers get for a failure.

    :raises DriverError: it is a bug in barbtx.
    """
    error = failure.value
    if isinstance(error, defer.TimeoutError):
        raise unavailable("no response in time") from None
    if isinstance(error, exc.TimeoutError):
        raise unavailable("no free connection") from None
    if isinstance(error, exc.DBAPIError):
        error = error.orig
    if isinstance(error, ValueError):
        raise bad_value() from None
    if isinstance(error, psycopg.Error):
        problem = classify(error)
        raise_for(problem, committing=False)
        raise DriverError(str(problem)) from None
    return failure


@attrs.frozen
class TransactionReader:
    """Finds rows in a transaction, of any database.

    :ivar interact: runs a function of a session in a read-only transaction; see :meth:`Database.interact`.
    """

    interact: Callable[[Callable[[Session], Any]], Deferred[Any]]

    def find(self, lookup: Lookup, keys: Sequence[Key], now: datetime.datetime | None) -> Deferred[Rows]:
        """See :meth:`Reader.find`."""
        return self.interact(lambda session: lookup.find(session, keys, now))

    def select(self, query: Query, group: Sequence[Mapping[str, Any]]) -> Deferred[Sequence[Sequence[NamedRow]]]:
        """See :meth:`Reader.select`."""
        return self.interact(lambda session: [query.select(session, values) for values in group])
