"""The base class of the repositories."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import attrs
from sqlalchemy.orm import Session
from twisted.internet.defer import Deferred

from barbtx.model.database import Database
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

    def _interact(self, work: Callable[[Session], T], *, write: bool = True, listing: bool = False) -> Deferred[T]:
        """Run work in one transaction; see :meth:`Database.interact`."""
        return self.database.interact(work, write=write, listing=listing, tables=self.tables)
