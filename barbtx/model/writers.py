"""Writing through pipelines: statements of concurrent callers share a transaction, and so a commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import psycopg
from sqlalchemy import exc
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from barbtx.model.connector import Connector
from barbtx.model.database_errors import ErrorKind, classify
from barbtx.model.database_failures import raise_for, unavailable
from barbtx.model.pipeline import Execution, PipelineLost
from barbtx.reactor import IReactor

#: For each statement of a group, the rows that it returned.
Results = Sequence[Sequence[Any]]

# The general way of writing handles these: it retries, or says which object is missing.
_NOT_WRITTEN = frozenset({ErrorKind.CONFLICT, ErrorKind.INTEGRITY, ErrorKind.BAD_VALUE, ErrorKind.UNEXPECTED})


class NotWritten(Exception):
    """The database refused a statement; nothing was changed."""


@attrs.frozen
class PipelineWriter:
    """Executes groups of statements in PostgreSQL, each group in one transaction.

    :ivar connectors: the connections, which are used alternately.
    :ivar timeout: seconds that a group may take, including the time to connect.
    """

    reactor: IReactor
    connectors: Sequence[Connector]
    timeout: float

    def write(self, group: Sequence[Execution]) -> Deferred[Results]:
        """Execute statements and commit. If one fails, none of them has changed anything.

        :raises NotWritten: (asynchronously) the database refused a statement.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow. If the outcome is unknown, the
            group may have been committed.
        """
        written: Deferred[Results] = Deferred.fromCoroutine(self._write(group))
        return written.addTimeout(self.timeout, self.reactor).addErrback(_translate)

    async def _write(self, group: Sequence[Execution]) -> Results:
        pipeline = await min(self.connectors, key=lambda connector: connector.in_flight).pipeline()
        try:
            return await pipeline.send(group)
        except CancelledError:
            pipeline.abort()
            raise unavailable("no response in time", outcome_unknown=True) from None
        except PipelineLost as problem:
            raise unavailable(str(problem), outcome_unknown=True) from None


def _translate(failure: Failure) -> Failure:
    error = failure.value
    if isinstance(error, defer.TimeoutError):
        raise unavailable("no response in time") from None
    if isinstance(error, exc.TimeoutError):
        raise unavailable("no free connection") from None
    if isinstance(error, exc.DBAPIError):
        error = error.orig
    if isinstance(error, ValueError):
        raise NotWritten from None
    if isinstance(error, psycopg.Error):
        problem = classify(error)
        if problem.kind in _NOT_WRITTEN:
            raise NotWritten from None
        raise_for(problem, committing=False)
    return failure
