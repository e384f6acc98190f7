"""Statements of concurrent callers that are sent together: lookups, other queries, and writes.

PostgreSQL gets them through pipelines, each group of tables through connections of its own, so that a table that is
locked or slow does not hold up the others. Other databases get each group of queries in one transaction.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import attrs
from sqlalchemy.engine import Engine
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from barbtx.model.access_gate import AccessGate
from barbtx.model.batcher import Batcher
from barbtx.model.compiled import CompiledStatement
from barbtx.model.connector import Connector, connect
from barbtx.model.database_failures import DatabaseUnavailable, closed, unavailable
from barbtx.model.lookups import Key, Lookup, NamedRow, Query
from barbtx.model.readers import PipelineReader, Reader, Rows, TransactionReader
from barbtx.model.writers import PipelineWriter, Write
from barbtx.reactor import IReactor

K = TypeVar("K")
R = TypeVar("R")

#: A key to be looked up, and the time of the lookup.
_Request: TypeAlias = tuple[Key, datetime.datetime | None]

# Connections for the writes of each group of tables.
_WRITERS = 2


@attrs.frozen
class Statements:
    """Sends the statements of one process.

    :ivar timeout: seconds that a statement may wait to be sent, and that it may take.
    :ivar max_retries: retries of a query after the connection was lost.
    :ivar max_waiting: maximum number of callers that wait for one kind of statement to be sent.
    :ivar interact: runs a function of a session in a transaction that only reads.
    :ivar report: called after each group, with whether the database was unavailable.
    """

    reactor: IReactor
    engine: Engine
    threads: ThreadPool
    gate: AccessGate
    timeout: float
    max_retries: int
    max_waiting: int
    interact: Callable[..., Deferred[Any]]
    report: Callable[[bool], None]
    _connectors: dict[str, Connector] = attrs.field(factory=dict, init=False)
    _lookups: dict[Lookup, Batcher[_Request, NamedRow | None]] = attrs.field(factory=dict, init=False)
    _queries: dict[Query, Batcher[Mapping[str, Any], Sequence[NamedRow]]] = attrs.field(factory=dict, init=False)
    _writes: dict[str, Batcher[Write, Sequence[NamedRow]]] = attrs.field(factory=dict, init=False)

    def find(
        self, lookup: Lookup, key: Key, now: datetime.datetime | None = None, *, tables: str
    ) -> Deferred[NamedRow | None]:
        """Find the row of a key. Concurrent calls with the same lookup share one statement.

        :param now: the time of the call, if the lookup uses it. The lookup may use that of a later call.
        :param tables: the group of tables that the lookup uses; see :class:`~barbtx.model.admission.Lane`.
        :return: fires with the row, or None if there is none.
        :raises BadRequest: (asynchronously) the database does not accept the key.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow, or too many callers wait.
        """
        if not self.gate.admits():
            return fail(closed())
        batcher = self._lookups.get(lookup)
        if batcher is None:
            reader = self._reader(tables, listing=False)

            def send(requests: Sequence[_Request]) -> Deferred[Rows]:
                keys = [key for key, _ in requests]
                times = [now for _, now in requests if now is not None]
                return reader.find(lookup, keys, max(times, default=None))

            batcher = self._lookups[lookup] = self._batcher(send)
        return batcher.request((key, now))

    def select(self, query: Query, values: Mapping[str, Any], *, tables: str) -> Deferred[Sequence[NamedRow]]:
        """Execute a query that may read many rows. Concurrent calls with the same query share a round trip.

        :param values: the query's parameters by name.
        :param tables: the group of tables that the query uses; see :class:`~barbtx.model.admission.Lane`.
        :raises BadRequest: (asynchronously) the database does not accept a parameter.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow, or too many callers wait.
        """
        if not self.gate.admits():
            return fail(closed())
        batcher = self._queries.get(query)
        if batcher is None:
            reader = self._reader(tables, listing=True)
            batcher = self._queries[query] = self._batcher(lambda group: reader.select(query, group))
        return batcher.request(values)

    def _reader(self, tables: str, *, listing: bool) -> Reader:
        if not self.has_pipelines:
            return TransactionReader(partial(self.interact, listing=listing, tables=tables))
        connector = self._make_connector(f"{tables} {'lists' if listing else 'reads'}")
        return PipelineReader(self.reactor, connector, self.timeout, self.max_retries)

    def _batcher(self, send: Callable[[Sequence[K]], Deferred[Sequence[R]]]) -> Batcher[K, R]:
        return Batcher(
            self.reactor,
            lambda group: send(group).addCallbacks(self._answered, self._failed),
            self.timeout,
            self.max_waiting,
            unavailable,
            (DatabaseUnavailable,),
        )

    @property
    def has_pipelines(self) -> bool:
        """Whether :meth:`write` can be used: the database is PostgreSQL."""
        return self.engine.dialect.name == "postgresql"

    def write(
        self, statement: CompiledStatement, values: dict[str, Any], *, tables: str
    ) -> Deferred[Sequence[NamedRow]]:
        """Execute one statement and commit. Concurrent calls for the same tables share a transaction.

        The statement must not take locks that another transaction holds for long, since the others then wait for it.

        :param values: the statement's parameters by name, except ``deadline``; see :class:`PipelineWriter`.
        :param tables: the group of tables that the statement uses; see :class:`~barbtx.model.admission.Lane`.
        :return: fires with the rows that the statement returns.
        :raises NotWritten: (asynchronously) the database refused the statement. A transaction with separate statements
            would report why.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow, or too many callers wait.
        """
        if not self.gate.admits():
            return fail(closed())
        batcher = self._writes.get(tables)
        if batcher is None:
            connectors = [self._make_connector(f"{tables} writes {number}") for number in range(_WRITERS)]
            batcher = self._writes[tables] = self._batcher(PipelineWriter(self.reactor, connectors, self.timeout).write)
        return batcher.request(Write(statement, values))

    def _make_connector(self, name: str) -> Connector:
        connector = self._connectors.get(name)
        if connector is None:
            connector = self._connectors[name] = Connector(self.reactor, self.threads, partial(connect, self.engine))
        return connector

    def gauges(self) -> dict[str, object]:
        """The state of the pipelines, for the status report."""
        connectors = self._connectors.values()
        connected = sum(connector.connected for connector in connectors)
        return {"pipelines": f"{connected} connected, {sum(c.in_flight for c in connectors)} groups in flight"}

    def close(self) -> None:
        """Close all pipelines. Queries in flight fail."""
        for connector in self._connectors.values():
            connector.close()

    def _answered(self, answers: R) -> R:
        self.report(False)
        return answers

    def _failed(self, failure: Failure) -> Failure:
        if failure.check(DatabaseUnavailable):
            self.report(True)
        return failure
