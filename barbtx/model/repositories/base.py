"""The base class of the repositories."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import attrs
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.model.compiled import CompiledStatement
from barbtx.model.database import Database
from barbtx.model.writers import NotWritten
from barbtx.times import Clock

T = TypeVar("T")


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

    async def _create(
        self, statement: CompiledStatement, values: Mapping[str, Any], general: Callable[[Session], None]
    ) -> None:
        """Create an object, by one statement if the database has pipelines and that suffices.

        :param statement: returns a row if it has created the object.
        :param general: the general way: creates the object, or raises the error, in a transaction.
        """
        if self.database.statements.has_pipelines:
            with contextlib.suppress(NotWritten):
                if await self.database.statements.write(statement, values, tables=self.tables):
                    return
        await self._interact(general)

    def _interact(self, work: Callable[[Session], T], *, write: bool = True, listing: bool = False) -> Deferred[T]:
        """Run work in one transaction; see :meth:`Database.interact`."""
        return self.database.interact(work, write=write, listing=listing, tables=self.tables)
