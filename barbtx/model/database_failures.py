"""The errors that callers get when a transaction fails, without any values."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.logger import Logger, LogLevel

from barbtx.errors import BadRequest, ServiceUnavailable
from barbtx.model.database_errors import UNAVAILABLE, DatabaseProblem, ErrorKind

log = Logger()


class DatabaseUnavailable(ServiceUnavailable):
    """The database is down, too slow, read-only or out of space.

    :ivar outcome_unknown: whether the transaction may have been committed, because the connection was lost or the
        timeout expired while COMMIT was under way. If it is false, the transaction has changed nothing and never will.
    """

    def __init__(self, *, outcome_unknown: bool = False, **debug: object) -> None:
        super().__init__("The database cannot be reached at the moment; please try again")
        self.debug = debug
        self.outcome_unknown = outcome_unknown


class CancelledInCommit(CancelledError):
    """The caller cancelled a transaction after its commit had begun."""

    outcome_unknown = True


class DriverError(Exception):
    """Replaces a driver's error in exceptions and logs, because the driver's own text may quote values."""


def raise_for(problem: DatabaseProblem, *, committing: bool) -> None:
    """Raise the exception that callers get for a problem, unless it is a bug in barbtx.

    :param committing: whether COMMIT had been sent.
    :raises BadRequest: the database cannot store a value.
    :raises DatabaseUnavailable: the transaction may succeed later.
    """
    if problem.kind is ErrorKind.BAD_VALUE:
        log.info("the database rejected a value: {cause}", cause=str(problem))
        raise bad_value() from None
    if problem.kind in UNAVAILABLE:
        raise unavailable(
            str(problem),
            outcome_unknown=problem.outcome_unknown(committing),
            needs_operator=problem.kind is ErrorKind.REFUSED,
        ) from None


def unavailable(cause: str, *, outcome_unknown: bool = False, needs_operator: bool = False) -> DatabaseUnavailable:
    """Log why a transaction cannot run now, and make the error for it.

    :param needs_operator: whether to log an error instead of a warning.
    """
    level = LogLevel.error if needs_operator else LogLevel.warn
    log.emit(level, "database unavailable: {cause}", cause=cause, log_outage=True)
    return DatabaseUnavailable(outcome_unknown=outcome_unknown, cause=cause)


def closed() -> DatabaseUnavailable:
    """Make the error for a transaction that the gate does not admit. The code that closed the gate logs the reason."""
    return DatabaseUnavailable(cause="the startup checks have not passed yet")


def bad_value() -> BadRequest:
    """Make the error for a value that the database or its driver rejects."""
    return BadRequest("A value is too long, too large or has characters that cannot be stored.")
