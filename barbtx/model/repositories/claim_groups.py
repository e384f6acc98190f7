"""Claiming orders for all tasks of a process that begin at the same time by one statement, in PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import attrs
from twisted.internet.defer import Deferred

from barbtx.errors import NotFound
from barbtx.model.batcher import Batcher
from barbtx.model.database_failures import DatabaseUnavailable, unavailable
from barbtx.model.lookups import NamedRow
from barbtx.model.records import Lease
from barbtx.model.repositories.claim_statement import claim_statement, claim_values, read_lease
from barbtx.model.repositories.order_claims import Claim
from barbtx.model.statements import Statements
from barbtx.model.writers import NotWritten


class Undecided(Exception):
    """Only a transaction with several statements can tell which order a claim gets; nothing was claimed."""


@attrs.frozen
class _Request:
    """A claim that waits to be sent.

    :ivar after: primary key of the project that had its turn last, as far as the caller knows.
    :ivar group: how many groups had been answered when it was made.
    """

    token: str
    order_id: str | None
    after: str
    group: int


class LaneClaims:
    """Claims the next orders of a lane. Claims that are made while a group is in flight form the next group.

    :param tables: the group of tables that admission control counts the statements towards.
    :param lease_seconds: the leases expire after this time.
    """

    def __init__(self, statements: Statements, tables: str, lane: str, lease_seconds: float) -> None:
        self._statements = statements
        self._tables = tables
        self._lane = lane
        self._lease_seconds = lease_seconds
        self._answered = 0
        self._last = ""
        # A second group in flight would only pass over the rows that the first one locks.
        self._batcher: Batcher[_Request, NamedRow | None] = Batcher(
            statements.reactor,
            lambda group, _: Deferred.fromCoroutine(self._send(group)),
            statements.timeout,
            statements.max_waiting,
            unavailable,
            (DatabaseUnavailable,),
            depth=1,
        )

    async def claim(self, claim: Claim, after: str, order_id: str | None) -> Lease | None:
        """Claim the next order; see :meth:`OrderWork.claim_next`.

        :raises Undecided: nothing was claimed.
        :raises NotFound: the named order does not exist, and no order is waiting.
        :raises DatabaseUnavailable: the database is down or too slow.
        """
        while True:
            try:
                row = await self._batcher.request(_Request(claim.token, order_id, after, self._answered))
            except DatabaseUnavailable as problem:
                claim.may_be_taken = problem.outcome_unknown
                raise
            if row is None:
                raise Undecided
            if row.id is not None:
                claim.taken = row.id
                return read_lease(row, claim.token)
            if row.unsure:
                raise Undecided
            if not row.any_taken:
                break
            # The others took all that were waiting for the projects in turn. More may wait by now.
        if order_id is not None and not row.known:
            raise NotFound("Order not found.")
        return None

    async def _send(self, group: Sequence[_Request]) -> Sequence[NamedRow | None]:
        """Claim an order for each request, as long as some wait. Return a row for each, or None if it is undecided."""
        newest = group[-1]
        # Its caller may not have known yet whose turn the group before this one was.
        after = newest.after if newest.group == self._answered else self._last
        values = claim_values(self._lane, after, [(request.token, request.order_id) for request in group])
        answers: list[NamedRow | None] = [None] * len(group)
        with contextlib.suppress(NotWritten):
            for row in await self._statements.write(claim_statement(self._lease_seconds), values, tables=self._tables):
                answers[row.n - 1] = row
        self._answered += 1
        self._last = next((row.project_key for row in reversed(answers) if row and row.project_key), after)
        return answers
