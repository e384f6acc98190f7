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
    :ivar needs_operator: whether it does not become available again unless an operator acts.
    """

    def __init__(self, cause: str, *, outcome_unknown: bool = False, needs_operator: bool = False) -> None:
        super().__init__("The database cannot be reached at the moment; please try again")
        self.cause = cause
        self.debug = {"cause": cause}
        self.outcome_unknown = outcome_unknown
        self.needs_operator = needs_operator

    def log(self) -> None:
        """Log why the database is unavailable."""
        level = LogLevel.error if self.needs_operator else LogLevel.warn
        log.emit(level, "database unavailable: {cause}", cause=self.cause, log_outage=True)

    def renewed(self) -> DatabaseUnavailable:
        """Return an equal error for another caller, and log it."""
        error = DatabaseUnavailable(
            self.cause, outcome_unknown=self.outcome_unknown, needs_operator=self.needs_operator
        )
        error.log()
        return error


class CancelledInCommit(CancelledError):
    """The caller cancelled a transaction after its commit had begun."""

    outcome_unknown = True


class DriverError(Exception):
    """Replaces a driver's error in exceptions and logs, because the driver's own text may quote values."""


def error_for(problem: DatabaseProblem, *, committing: bool) -> BadRequest | DatabaseUnavailable | None:
    """Return the exception that callers get for a problem; None if it is a bug in barbtx.

    :param committing: whether COMMIT had been sent.
    """
    if problem.kind is ErrorKind.BAD_VALUE:
        log.info("the database rejected a value: {cause}", cause=str(problem))
        return bad_value()
    if problem.kind in UNAVAILABLE:
        return DatabaseUnavailable(
            str(problem),
            outcome_unknown=problem.outcome_unknown(committing),
            needs_operator=problem.kind is ErrorKind.REFUSED,
        )
    return None


def unavailable(cause: str, *, outcome_unknown: bool = False) -> DatabaseUnavailable:
    """Log why a transaction cannot run now, and make the error for it."""
    error = DatabaseUnavailable(cause, outcome_unknown=outcome_unknown)
    error.log()
    return error


def closed() -> DatabaseUnavailable:
    """Make the error for a transaction that the gate does not admit. The code that closed the gate logs the reason."""
    return DatabaseUnavailable("the startup checks have not passed yet")


def bad_value() -> BadRequest:
    """Make the error for a value that the database or its driver rejects."""
    return BadRequest("A value is too long, too large or has characters that cannot be stored.")
