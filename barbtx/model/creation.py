"""Creations: inserts that concurrent callers can share, and how they are done in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import attrs
from sqlalchemy import exc
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from barbtx.model.compiled import CompiledStatement

#: The parameters of a creation, by name.
Values: TypeAlias = dict[str, Any]


@attrs.frozen(eq=False)
class Creation:
    """A kind of object that can be created for many callers at once, if nothing about it is unusual.

    :ivar statement: returns a statement for PostgreSQL that creates one object, and returns a row if it did.
    :ivar create: creates objects in a transaction, and returns for each whether it did.
    """

    statement: Callable[[], CompiledStatement]
    create: Callable[[Session, Sequence[Values]], list[bool]]


class RunWrite(Protocol):
    """Runs work in a transaction in a thread; see :meth:`~barbtx.model.database.Database.interact`."""

    def __call__(self, work: Callable[[Session], Any], *, tables: str, timeout: float) -> Deferred[Any]:
        """Run it."""
        ...


class _Refused(Exception):
    """The database refused one of the objects."""


@attrs.frozen
class ThreadCreator:
    """Creates objects of one kind in any database, in a thread.

    :ivar tables: the group of tables that the creation uses; see :class:`~barbtx.model.admission.Lane`.
    """

    run: RunWrite
    creation: Creation
    tables: str

    def create(self, group: Sequence[Values], seconds: float) -> Deferred[Sequence[bool]]:
        """Create objects in one transaction, or none of them if the database refuses one.

        :param seconds: timeout, including the time to wait for a thread.
        :return: fires with whether each was created.
        :raises BadRequest: (asynchronously) the database cannot store a value.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow.
        """

        def work(session: Session) -> list[bool]:
            try:
                return self.creation.create(session, group)
            except exc.IntegrityError:
                # A retry of the group would be refused again.
                raise _Refused from None

        def refused(failure: Failure) -> Sequence[bool]:
            failure.trap(_Refused)
            return [False] * len(group)

        return self.run(work, tables=self.tables, timeout=seconds).addErrback(refused)
