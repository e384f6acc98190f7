"""Statements of concurrent callers that are sent to the database together: lookups and writes.

On PostgreSQL they are sent through pipelines. Each group of tables has pipelines of its own, so that a table that is
locked or slow does not hold up the others. Other databases execute them in threads, which admission control shares out.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import attrs
from sqlalchemy.engine import Engine
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from barbtx.model.access_gate import AccessGate
from barbtx.model.batcher import Batcher
from barbtx.model.compiled import CompiledStatement
from barbtx.model.connector import Connector, connect
from barbtx.model.creation import Creation, RunWrite, ThreadCreator, Values
from barbtx.model.database_failures import CancelledInCommit, DatabaseUnavailable, bad_value, closed, unavailable
from barbtx.model.lookups import AnySelect, Key, Lookup, NamedRow
from barbtx.model.pipeline import Execution
from barbtx.model.readers import PipelineFetcher, PipelineReader, Rows, TooSlow
from barbtx.model.thread_reader import RunQuery, ThreadReader
from barbtx.model.writers import NotWritten, PipelineWriter, StaleServer, Write
from barbtx.reactor import IReactor
from barbtx.validators import has_nul_or_surrogate

K = TypeVar("K")
R = TypeVar("R")

#: A key to be looked up, and the time of the lookup.
_Request: TypeAlias = tuple[Key, datetime.datetime | None]

# Connections for the writes of each group of tables.
_WRITERS = 2
# Threads that make connections: for each group of tables one for lookups and those for writes, and one for lists.
_CONNECTING = 2 * (1 + _WRITERS) + 1
# Queries in a group, and the seconds that one of them may take: it delays those of its group and of the next.
_FETCHES = 8
_FETCH_SECONDS = 0.25
# The part of the timeout after which the server ends a statement. After a write, there is time for the others of its
# group, and for the general way.
_READ_PART, _WRITE_PART = 0.5, 0.25


def _renew(error: Exception) -> Exception:
    """Return the exception for one of the callers whose statements share a group, and log it."""
    return error.renewed() if isinstance(error, DatabaseUnavailable) else copy.copy(error)


def _rows(answer: Sequence[NamedRow] | TooSlow) -> Sequence[NamedRow]:
    if isinstance(answer, TooSlow):
        raise answer
    return answer


@attrs.frozen
class Statements:
    """Sends the statements of one process.

    :ivar enabled: whether there are pipelines: on PostgreSQL, if ``[database] pipelines`` is set. Only then can
        :meth:`write` be used.
    :ivar timeout: seconds that a statement may take, including the time that it waits to be sent.
    :ivar max_retries: retries of a query after the connection was lost.
    :ivar max_waiting: maximum number of callers that wait for one kind of statement to be sent.
    :ivar report: called after each group, with whether the database was unavailable.
    :ivar query: runs a query in a thread.
    :ivar interact: runs work that writes in a thread.
    """

    reactor: IReactor
    enabled: bool
    engine: Engine
    gate: AccessGate
    timeout: float
    max_retries: int
    max_waiting: int
    report: Callable[[bool], None]
    query: RunQuery
    interact: RunWrite
    threads: ThreadPool = attrs.field(init=False)
    _connectors: dict[str, Connector] = attrs.field(factory=dict, init=False)
    _lookups: dict[Lookup, Batcher[_Request, NamedRow | None]] = attrs.field(factory=dict, init=False)
    _fetches: dict[str, Batcher[Execution, Sequence[NamedRow] | TooSlow]] = attrs.field(factory=dict, init=False)
    _writes: dict[str, Batcher[Write, Sequence[NamedRow]]] = attrs.field(factory=dict, init=False)
    _creations: dict[Creation, Batcher[Values, bool]] = attrs.field(factory=dict, init=False)

    @threads.default
    def _make_threads(self) -> ThreadPool:
        # For connecting only. The threads of transactions are counted by admission control.
        return ThreadPool(0, _CONNECTING, name="connecting")

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
        if any(value is not None and has_nul_or_surrogate(value) for value in key):
            # One such key would fail its whole group.
            return fail(bad_value())
        batcher = self._lookups.get(lookup)
        if batcher is None:
            reader = self._make_reader(lookup.statement(self.engine.dialect.name), tables)

            def send(requests: Sequence[_Request], seconds: float) -> Deferred[Rows]:
                keys = [key for key, _ in requests]
                times = [now for _, now in requests if now is not None]
                return reader.find(keys, max(times, default=None), seconds)

            batcher = self._lookups[lookup] = self._batcher(send, CancelledError)
        return batcher.request((key, now))

    def _make_reader(self, statement: AnySelect, tables: str) -> PipelineReader | ThreadReader:
        if not self.enabled:
            return ThreadReader(self.query, statement, tables)
        connector = self._make_connector(f"{tables} reads", self.timeout * _READ_PART)
        return PipelineReader(self.reactor, connector, CompiledStatement.of(statement), self.max_retries)

    def fetch(
        self, statement: CompiledStatement, values: dict[str, Any], *, tables: str
    ) -> Deferred[Sequence[NamedRow]]:
        """Execute a query that reads few rows. Concurrent calls for the same tables share a round trip.

        :param values: the query's parameters by name.
        :param tables: the group of tables that the query uses; see :class:`~barbtx.model.admission.Lane`.
        :return: fires with the rows.
        :raises TooSlow: (asynchronously) the query was slow, or another one of its group. It may succeed in a
            transaction.
        :raises BadRequest: (asynchronously) the database does not accept a value.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow, or too many callers wait.
        """
        if not self.gate.admits():
            return fail(closed())
        if any(isinstance(value, str) and has_nul_or_surrogate(value) for value in values.values()):
            return fail(bad_value())
        batcher = self._fetches.get(tables)
        if batcher is None:
            seconds = min(self.timeout * _READ_PART, _FETCH_SECONDS)
            connector = self._make_connector(f"{tables} fetches", seconds)
            fetcher = PipelineFetcher(self.reactor, connector, self.max_retries)
            batcher = self._fetches[tables] = self._batcher(fetcher.fetch, CancelledError, _FETCHES)
        return batcher.request(Execution(statement, statement.parameters(values))).addCallback(_rows)

    def _batcher(
        self,
        send: Callable[[Sequence[K], float], Deferred[Sequence[R]]],
        abandoned: Callable[[], Exception],
        size: int = 64,
    ) -> Batcher[K, R]:
        return Batcher(
            self.reactor,
            lambda group, seconds: send(group, seconds).addCallbacks(self._answered, self._failed),
            self.timeout,
            self.max_waiting,
            unavailable,
            (DatabaseUnavailable, StaleServer),
            _renew,
            abandoned,
            size,
            # SQLite does not wait for anything that two threads could overlap.
            depth=1 if self.engine.dialect.name == "sqlite" else 2,
            least=self.timeout * _WRITE_PART,
        )

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
            seconds = self.timeout * _WRITE_PART
            connectors = [self._make_connector(f"{tables} writes {number}", seconds) for number in range(_WRITERS)]
            batcher = self._writes[tables] = self._batcher(
                PipelineWriter(self.reactor, connectors).write, CancelledInCommit
            )
        return batcher.request(Write(statement, values))

    async def create(self, creation: Creation, values: Values, *, tables: str) -> bool:
        """Create an object, unless something about it is unusual. Concurrent calls share a transaction.

        :param values: the parameters of the creation, by name.
        :param tables: the group of tables that the creation uses; see :class:`~barbtx.model.admission.Lane`.
        :return: whether the object was created. If not, nothing was changed, and a transaction with separate statements
            would report why.
        :raises BadRequest: the database cannot store a value.
        :raises DatabaseUnavailable: the database is down or too slow, or too many callers wait.
        """
        if self.enabled:
            try:
                return bool(await self.write(creation.statement(), values, tables=tables))
            except NotWritten:
                return False
        if not self.gate.admits():
            raise closed()
        batcher = self._creations.get(creation)
        if batcher is None:
            creator = ThreadCreator(self.interact, creation, tables)
            batcher = self._creations[creation] = self._batcher(creator.create, CancelledInCommit)
        return await batcher.request(values)

    def _make_connector(self, name: str, seconds: float) -> Connector:
        connector = self._connectors.get(name)
        if connector is None:
            connector = self._connectors[name] = Connector(
                self.reactor, self.threads, partial(connect, self.engine, seconds)
            )
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
