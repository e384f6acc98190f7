"""Writing through pipelines: statements of concurrent callers share a transaction, and so a commit."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import attrs
import psycopg
from sqlalchemy import select
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from barbtx.model.batcher import RequestFailed
from barbtx.model.compiled import CompiledStatement
from barbtx.model.connector import Connector, driver_error
from barbtx.model.database_errors import STALE, ErrorKind, classify
from barbtx.model.database_failures import DatabaseUnavailable, error_for
from barbtx.model.database_time import DATABASE_TIME
from barbtx.model.pipeline import Execution, Pipeline, PipelineLost, PipelineNotUsed, failed_statement
from barbtx.reactor import IReactor

#: For each statement of a group, the rows that it returned.
Results = Sequence[Sequence[Any]]

# The general way of writing handles these: it retries, or says which object is missing.
_NOT_WRITTEN = frozenset({ErrorKind.CONFLICT, ErrorKind.INTEGRITY, ErrorKind.BAD_VALUE, ErrorKind.UNEXPECTED})
# The statement waited too long for a lock, or took too long; others of its group need not.
_TOO_SLOW = frozenset({"55P03", "57014"})


@lru_cache
def _clock() -> CompiledStatement:
    """Sent with each group, so that the deadlines follow the server's clock if it is set."""
    return CompiledStatement.of(select(DATABASE_TIME.label("now")))


@attrs.frozen
class Write:
    """A statement that writes.

    :ivar values: its parameters by name, without ``deadline``.
    """

    statement: CompiledStatement
    values: dict[str, Any] = attrs.field(repr=False)


class NotWritten(Exception):
    """The database refused a statement; nothing was changed."""


class StaleServer(NotWritten):
    """The server was demoted, or has ended the session; nothing was changed, and another connection is needed."""


@attrs.frozen
class PipelineWriter:
    """Executes groups of statements in PostgreSQL, each group in one transaction.

    :ivar connectors: the connections, which are used alternately.
    """

    reactor: IReactor
    connectors: Sequence[Connector]

    def write(self, group: Sequence[Write], seconds: float) -> Deferred[Results]:
        """Execute statements and commit. If one fails, none of them has changed anything.

        Their parameter ``deadline`` is the time by the server's clock after which nobody waits for the result. A server
        that did not run and goes on must change nothing then.

        :param seconds: timeout, including the time to connect.
        :raises RequestFailed: (asynchronously) one statement failed: with :class:`NotWritten` if the database refused
            it, with :class:`DatabaseUnavailable` if it was too slow.
        :raises NotWritten: (asynchronously) a value cannot be sent.
        :raises StaleServer: (asynchronously) the server cannot be used any more.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow. If the outcome is unknown, the
            group may have been committed.
        """
        written: Deferred[Results] = Deferred.fromCoroutine(self._write(group, seconds))
        return written.addTimeout(seconds, self.reactor).addErrback(_translate)

    async def _pipeline(self) -> Pipeline:
        """Return the pipeline with the fewest groups in flight; a connected one if that one cannot be connected.

        :raises Exception: none can be connected.
        """
        free, *others = sorted(self.connectors, key=lambda connector: (connector.in_flight, not connector.connected))
        try:
            return await free.pipeline()
        except CancelledError:
            raise
        except Exception:
            for connector in others:
                if connector.connected:
                    return await connector.pipeline()
            raise

    async def _write(self, group: Sequence[Write], seconds: float) -> Results:
        begin = self.reactor.seconds()
        pipeline = await self._pipeline()
        seconds -= self.reactor.seconds() - begin
        deadline = {"deadline": pipeline.time() + datetime.timedelta(seconds=seconds)}
        executions = [Execution(_clock(), _clock().parameters({}))]
        executions += [
            Execution(write.statement, write.statement.parameters(write.values | deadline)) for write in group
        ]
        try:
            clock, *results = await pipeline.send(executions)
        except CancelledError:
            pipeline.abort()
            raise DatabaseUnavailable("no response in time", outcome_unknown=True) from None
        except PipelineNotUsed:
            raise StaleServer from None
        except PipelineLost as problem:
            raise DatabaseUnavailable(str(problem), outcome_unknown=True) from None
        except psycopg.Error as error:
            if classify(error).kind in STALE:
                # Nothing was changed, and the general way finds another server or session.
                pipeline.abort()
                raise StaleServer from None
            raise _of_statement(error) from None
        pipeline.note_time(clock[0].now)
        return results


def _translate(failure: Failure) -> Failure:
    error = driver_error(failure)
    if isinstance(error, ValueError):
        raise NotWritten from None
    if isinstance(error, psycopg.Error):
        raise _reason(error) from None
    return failure


def _of_statement(error: psycopg.Error) -> Exception:
    """Return the exception for an error of a statement, or of the whole group."""
    number, reason = failed_statement(error), _reason(error)
    # The first statement of a group is that of the clock.
    if number and (isinstance(reason, NotWritten) or error.sqlstate in _TOO_SLOW):
        return RequestFailed(number - 1, reason)
    return reason


def _reason(error: psycopg.Error) -> Exception:
    problem = classify(error)
    if problem.kind in _NOT_WRITTEN:
        return NotWritten()
    return error_for(problem, committing=False) or NotWritten()
