"""Lookups in threads: those of concurrent callers share a thread and a statement."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from barbtx.model.lookups import AnySelect, Key, in_order, write_keys
from barbtx.model.readers import Rows


class RunQuery(Protocol):
    """Runs a query in a thread, within a number of seconds. Its result and errors are those of the query."""

    def __call__(self, query: Callable[[Connection], Any], tables: str, timeout: float) -> Deferred[Any]:
        """Run it."""
        ...


@attrs.frozen
class ThreadReader:
    """Finds the rows of one lookup in any database, in a thread.

    :ivar tables: the group of tables that the lookup uses; see :class:`~barbtx.model.admission.Lane`.
    """

    run: RunQuery
    statement: AnySelect
    tables: str

    def find(self, keys: Sequence[Key], now: datetime.datetime | None, seconds: float) -> Deferred[Rows]:
        """Find the rows of keys; None for a key that has none.

        :param now: the time of the lookup, if the query uses it.
        :param seconds: timeout, including the time to wait for a thread.
        :raises BadRequest: (asynchronously) the database does not accept a key.
        :raises DatabaseUnavailable: (asynchronously) the database is down or too slow.
        """
        parameters = {"keys": write_keys(keys), "now": now}

        def query(connection: Connection) -> Rows:
            return in_order(connection.execute(self.statement, parameters), len(keys))

        return self.run(query, self.tables, seconds)
