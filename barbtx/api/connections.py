"""How many connections clients may hold, and which of them give way when there is no room for another.

A connection without a request under way gives way to a new one, so neither silent connections nor idle ones keep
anybody out. Connections beyond the limits go to a small reserve, where they have little time for their request and
only the health check is answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from barbtx.networks import Address, Network, client_group, is_within

log = Logger()

# A limit that was reached is logged again only after so much of it was free.
_RELIEF = 0.9

#: What is answered on every connection, however many there are.
HEALTH_CHECK = "/healthcheck"


class Connection(Protocol):
    """What is limited here.

    :ivar address: of the client or the proxy before it; None if it has none, as on a UNIX socket.
    :ivar reserved: whether it is one of the reserve.
    """

    address: Address | None
    reserved: bool

    def make_room(self) -> None:
        """Close, soon."""


@attrs.define(eq=False)
class Connections:
    """The connections of a service.

    :ivar limit: how many there may be, the reserve not counted.
    :ivar per_client: how many one client may have (see :func:`client_group`); 0 for no limit.
    :ivar reserve: further ones that may ask for the health check.
    :ivar grace: seconds for which a connection must have been idle before it gives way: its request may be on its way.
    :ivar trusted: proxies, which have no limit of their own: their clients are unknown until they send a request.
    """

    clock: IReactorTime
    limit: int
    per_client: int
    reserve: int
    trusted: tuple[Network, ...] = ()
    grace: float = 0.5
    _groups: dict[Connection, str | None] = attrs.field(factory=dict, init=False)
    _counts: Counter[str] = attrs.field(factory=Counter, init=False)
    # By the time since which they are idle, the longest first. There is one for each client, so that a client at its
    # limit gives way to itself.
    _idle: dict[Connection, float] = attrs.field(factory=dict, init=False)
    _idle_of: dict[str, dict[Connection, float]] = attrs.field(factory=dict, init=False)
    _reserved: dict[Connection, float] = attrs.field(factory=dict, init=False)
    _reported: set[str] = attrs.field(factory=set, init=False)

    def __iter__(self) -> Iterator[Connection]:
        return iter([*self._groups, *self._reserved])

    def admit(self, connection: Connection) -> None:
        """Take a new connection, idle so far; its ``reserved`` tells what became of it."""
        group = None
        if connection.address is not None and not is_within(connection.address, self.trusted):
            group = client_group(connection.address)
        if group is not None and self.per_client and self._counts[group] >= self.per_client:
            fits = self._displace(self._idle_of.get(group, {}), self.grace)
            if not fits:
                self._report(group, "a client has all the connections that one client may have")
        else:
            fits = len(self._groups) < self.limit or self._displace(self._idle, self.grace)
            if not fits:
                self._report("", "all connections are in use; only the health check is answered on further ones")
        connection.reserved = not fits
        if fits:
            self._groups[connection] = group
            if group is not None:
                self._counts[group] += 1
            self.idle(connection)
            return
        if len(self._reserved) >= self.reserve:
            self._displace(self._reserved, 0)
        self._reserved[connection] = self.clock.seconds()

    def idle(self, connection: Connection) -> None:
        """A connection has no request under way."""
        if connection not in self._groups:
            return
        now = self._idle[connection] = self.clock.seconds()
        group = self._groups[connection]
        if group is not None:
            self._idle_of.setdefault(group, {})[connection] = now

    def busy(self, connection: Connection) -> None:
        """A request has begun to arrive on a connection."""
        self._idle.pop(connection, None)
        group = self._groups.get(connection)
        idle = self._idle_of.get(group, {}) if group is not None else {}
        idle.pop(connection, None)
        if not idle:
            self._idle_of.pop(group, None)

    def dismiss(self, connection: Connection) -> None:
        """Forget a connection, which is lost or gives way."""
        self.busy(connection)
        self._reserved.pop(connection, None)
        group = self._groups.pop(connection, None)
        if group is not None:
            self._counts[group] -= 1
            if self._counts[group] < self.per_client * _RELIEF:
                self._reported.discard(group)
            if not self._counts[group]:
                del self._counts[group]
        if len(self._groups) < self.limit * _RELIEF:
            self._reported.discard("")

    def _displace(self, candidates: dict[Connection, float], grace: float) -> bool:
        """Have the first of some connections give way; whether there was one that could."""
        oldest = next(iter(candidates), None)
        if oldest is None or candidates[oldest] > self.clock.seconds() - grace:
            return False
        self.dismiss(oldest)
        oldest.make_room()
        return True

    def _report(self, group: str, what: str) -> None:
        if group not in self._reported:
            self._reported.add(group)
            log.warn(
                "{what}: {count}",
                what=what,
                count=self._counts[group] if group else len(self._groups),
                client=group or None,
            )
