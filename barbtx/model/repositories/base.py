"""The base class of the repositories."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import attrs
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.model.compiled import CompiledStatement
from barbtx.model.creation import Creation, Values
from barbtx.model.database import Database
from barbtx.model.lookups import NamedRow
from barbtx.model.writers import NotWritten
from barbtx.times import Clock

T = TypeVar("T")

# A transaction begins even if there is no time left for it.
_LEAST_SECONDS = 0.1


@attrs.frozen
class Repository:
    """Base of the repositories.

    :cvar tables: the group of tables that admission control counts the transactions towards; see
        :mod:`barbtx.model.admission`.
    :ivar clock: the wall clock of timestamps.
    """

    tables: ClassVar[str]

    database: Database
    clock: Clock

    async def _execute_or(
        self, statement: CompiledStatement, values: dict[str, Any], general: Callable[[Session], None]
    ) -> None:
        """Execute a statement that returns a row if it has done everything; otherwise do that in a transaction.

        :param general: does the same, or raises the error. It gets what the statement has left of the timeout.
        """
        until = self.database.reactor.seconds() + self.database.timeout
        rows: Sequence[NamedRow] = ()
        with contextlib.suppress(NotWritten):
            rows = await self.database.statements.write(statement, values, tables=self.tables)
        if not rows:
            await self._interact_until(until, general)

    async def _create_or(self, creation: Creation, values: Values, general: Callable[[Session], None]) -> None:
        """Create an object together with those of other callers, or in a transaction of its own if it is unusual.

        :param general: does the same, or raises the error. It gets what is left of the timeout.
        """
        until = self.database.reactor.seconds() + self.database.timeout
        if not await self.database.statements.create(creation, values, tables=self.tables):
            await self._interact_until(until, general)

    def _interact_until(self, until: float, work: Callable[[Session], T]) -> Deferred[T]:
        return self._interact(work, timeout=max(until - self.database.reactor.seconds(), _LEAST_SECONDS))

    def _interact(
        self,
        work: Callable[[Session], T],
        *,
        write: bool = True,
        listing: bool = False,
        timeout: float | None = None,
    ) -> Deferred[T]:
        """Run work in one transaction; see :meth:`Database.interact`."""
        return self.database.interact(work, write=write, listing=listing, tables=self.tables, timeout=timeout)
