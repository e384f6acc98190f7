"""A PostgreSQL connection in libpq's pipeline mode, driven by the reactor without threads.

Statements are sent in groups. A group is one implicit transaction, takes one round trip, and does not wait for the
groups before it. See "Pipeline Mode" in the documentation of libpq.
"""

from __future__ import annotations

import datetime
import itertools
import os
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import attrs
import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

from barbtx.model.compiled import CompiledStatement
from barbtx.reactor import IReactor

_SUCCESS = frozenset({pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK})
_BINARY = pq.Format.BINARY
# The reactor expects this value, although it is annotated as a Failure.
_LOST = cast(Failure, CONNECTION_LOST)


class PipelineLost(psycopg.OperationalError):
    """The connection was lost before a group was answered."""

    def __init__(self) -> None:
        super().__init__("the connection was lost")


class PipelineNotUsed(PipelineLost):
    """The connection was lost before the group was sent."""


def failed_statement(error: psycopg.Error) -> int | None:
    """Return the number, from 0, of the statement in its group that failed with an error; None if it is not known."""
    number: int | None = getattr(error, "barbtx_statement", None)
    return number


@attrs.frozen
class Execution:
    """A statement to be executed, with its parameters.

    :ivar values: the values of ``$1``, ``$2`` and so on.
    """

    statement: CompiledStatement
    values: Sequence[Any] = attrs.field(repr=False)


@attrs.define(eq=False)
class _Group:
    """What was sent before one Sync message: statements to be executed, or a statement to be prepared.

    :ivar answered: fires with the rows of each statement, or fails.
    """

    statements: Sequence[CompiledStatement] = ()
    prepares: CompiledStatement | None = None
    answered: Deferred[list[list[Any]]] = attrs.field(factory=Deferred)
    results: list[pq.abc.PGresult] = attrs.field(factory=list)

    def error(self) -> psycopg.Error | None:
        """The error of the first statement that failed; the ones after it were not tried.

        An error of the commit is a further result, and has no number.
        """
        for number, result in enumerate(self.results):
            if result.status not in _SUCCESS:
                error = psycopg.errors.error_from_result(result)
                return _numbered(error, number) if number < len(self.statements) else error
        return None


def _numbered(error: psycopg.Error, number: int) -> psycopg.Error:
    vars(error)["barbtx_statement"] = number
    return error


@implementer(IReadWriteDescriptor)
class Pipeline:
    """One connection in pipeline mode.

    :param connection: a connection that is in no transaction and belongs to the pipeline from now on.
    :param server_time: the present time by the server's clock, in UTC.
    :ivar since: when the pipeline began, in seconds of the reactor's clock.
    """

    def __init__(self, reactor: IReactor, connection: psycopg.Connection[Any], server_time: datetime.datetime) -> None:
        self._reactor = reactor
        self.since = reactor.seconds()
        self.note_time(server_time)
        self._connection: psycopg.Connection[Any] | None = connection
        self._pgconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        # libpq closes its socket by itself when the connection is lost. The number may then be another file's, so that
        # the reactor needs a descriptor of its own.
        self._descriptor = os.dup(self._pgconn.socket)
        self._numbers = itertools.count()
        self._prepared: dict[CompiledStatement, bytes] = {}
        self._refused: dict[CompiledStatement, psycopg.Error] = {}
        self._groups: deque[_Group] = deque()
        reactor.addReader(self)

    @property
    def lost(self) -> bool:
        """Whether the connection was lost or closed."""
        return self._connection is None

    def note_time(self, server_time: datetime.datetime) -> None:
        """Note the present time by the server's clock."""
        self._time = server_time, self._reactor.seconds()

    def time(self) -> datetime.datetime:
        """Return the time by the server's clock, as far as is known."""
        server_time, noted = self._time
        return server_time + datetime.timedelta(seconds=self._reactor.seconds() - noted)

    @property
    def in_flight(self) -> int:
        """How many groups have not been answered."""
        return len(self._groups)

    def parameter_status(self, name: bytes) -> bytes | None:
        """Return a parameter that the server reports, such as ``in_hot_standby``."""
        return None if self.lost else self._pgconn.parameter_status(name)

    def send(self, executions: Sequence[Execution]) -> Deferred[list[list[Any]]]:
        """Send a group of statements. If one fails, none of them has changed anything.

        Canceling the Deferred does not stop the statements; :meth:`abort` does, and those of all other groups.

        :return: fires with the rows of each statement.
        :raises PipelineNotUsed: (asynchronously) the connection had been lost before; nothing was sent.
        :raises PipelineLost: (asynchronously) the connection was lost. The group may have been committed.
        :raises psycopg.Error: (asynchronously) a statement failed; see :func:`failed_statement`.
        :raises ValueError: (asynchronously) a value cannot be converted; nothing was sent.
        """
        group = _Group([execution.statement for execution in executions])
        try:
            # Everything is converted before anything is sent.
            values = [self._dump(execution.values) for execution in executions]
        except (psycopg.Error, ValueError):
            group.answered.errback()
            return group.answered
        try:
            if self.lost:
                raise PipelineNotUsed
            names = [self._prepare(statement) for statement in group.statements]
            for name, (parameters, formats) in zip(names, values, strict=True):
                self._pgconn.send_query_prepared(name, parameters, formats, _BINARY)
            self._pgconn.pipeline_sync()
            self._groups.append(group)
            self._flush()
        except psycopg.OperationalError as error:
            self.abort()
            if not group.answered.called:
                group.answered.errback(error if isinstance(error, PipelineLost) else PipelineLost())
        return group.answered

    def _dump(self, values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[pq.Format]]:
        """Convert parameters. Bytes are sent in binary, because the meaning of their text form depends on a setting."""
        formats = [PyFormat.BINARY if isinstance(value, bytes) else PyFormat.TEXT for value in values]
        return self._transformer.dump_sequence(values, formats), list(self._transformer.formats or ())

    def _prepare(self, statement: CompiledStatement) -> bytes:
        name = self._prepared.get(statement)
        if name is None:
            name = self._prepared[statement] = b"barbtx_%d" % next(self._numbers)
            self._pgconn.send_prepare(name, statement.text)
            # This group is not undone if that of the statement fails.
            self._pgconn.pipeline_sync()
            self._groups.append(_Group(prepares=statement))
        return name

    def _flush(self) -> None:
        if self._pgconn.flush():
            self._reactor.addWriter(self)
        else:
            self._reactor.removeWriter(self)

    def abort(self) -> None:
        """Close the connection. Groups that were not answered fail with :class:`PipelineLost`."""
        if not self.lost:
            self.connectionLost(Failure(CONNECTION_DONE))

    # IReadWriteDescriptor

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def logPrefix(self) -> str:
        """Return a name for log lines."""
        return "database"

    def doWrite(self) -> Failure | None:
        """Send what the socket did not take before."""
        try:
            self._flush()
        except psycopg.OperationalError:
            return _LOST
        return None

    def doRead(self) -> Failure | None:
        """Receive results."""
        try:
            self._pgconn.consume_input()
            while not self.lost and not self._pgconn.is_busy() and self._groups:
                result = self._pgconn.get_result()
                if result is None and self._pgconn.status != pq.ConnStatus.OK:
                    return _LOST
                self._receive(result)
        except psycopg.OperationalError:
            return _LOST
        return _LOST if not self.lost and self._pgconn.status != pq.ConnStatus.OK else None

    def _receive(self, result: pq.abc.PGresult | None) -> None:
        if result is None:
            # The end of the results of one statement.
            return
        group = self._groups[0]
        if result.status != pq.ExecStatus.PIPELINE_SYNC:
            group.results.append(result)
            return
        self._groups.popleft()
        error = group.error()
        if group.prepares is not None:
            if error is not None:
                # The server then does not know the name that the group after this one uses.
                del self._prepared[group.prepares]
                self._refused[group.prepares] = error
        elif error is not None:
            refused = [self._refused.pop(statement, None) for statement in group.statements]
            group.answered.errback(
                next((_numbered(known, number) for number, known in enumerate(refused) if known is not None), error)
            )
        else:
            try:
                rows = [self._rows(*pair) for pair in zip(group.statements, group.results, strict=True)]
            except Exception:
                # A value that Python cannot represent, such as the time 'infinity'.
                group.answered.errback()
            else:
                group.answered.callback(rows)

    def _rows(self, statement: CompiledStatement, result: pq.abc.PGresult) -> list[Any]:
        if not result.ntuples:
            return []
        self._transformer.set_pgresult(result, set_loaders=True, format=_BINARY)
        return self._transformer.load_rows(0, result.ntuples, statement.row)

    def connectionLost(self, reason: Failure) -> None:
        """Close everything, and fail what was not answered."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        os.close(self._descriptor)
        self._descriptor = -1
        connection.close()
        groups, self._groups = self._groups, deque()
        for group in groups:
            if group.prepares is None:
                group.answered.errback(PipelineLost())
