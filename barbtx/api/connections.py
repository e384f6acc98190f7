"""Limits on the number of connections, and the eviction of idle connections when a limit is reached.

A new connection evicts the one that has been idle for longest, so that silent and idle connections do not lock other
clients out. If no connection is idle, the new one becomes a reserved connection: it gets a short timeout, and only the
health check is served on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from barbtx.networks import Address, Network, client_group, is_within
from barbtx.validators import provides

log = Logger()

# A reached limit is logged again only after usage has fallen below this fraction of it.
_REPORT_AGAIN_BELOW = 0.9

#: The path that is served on reserved connections, too.
HEALTH_CHECK = "/healthcheck"


class Connection(Protocol):
    """A connection that is counted and can be evicted.

    :ivar address: the peer's address, which may be a proxy's; None for a UNIX socket.
    :ivar reserved: whether it exceeds the limits.
    """

    address: Address | None
    reserved: bool

    def evict(self) -> None:
        """Close the connection soon."""

    def loseConnection(self) -> None:
        """Close the connection after the pending output."""


@attrs.define(eq=False)
class Connections:
    """The connections of a service.

    :ivar limit: maximum number of connections, reserved ones not counted.
    :ivar per_client: maximum number for one client (see :func:`client_group`); 0 for no limit.
    :ivar reserve: maximum number of reserved connections.
    :ivar trusted: networks of proxies, to which ``per_client`` does not apply, since a connection's client is not known
        before it sends a request.
    :ivar grace: seconds for which a connection must be idle before it can be evicted, because a request may be on its
        way.
    """

    clock: IReactorTime = attrs.field(validator=provides(IReactorTime))
    limit: int
    per_client: int
    reserve: int
    trusted: tuple[Network, ...] = ()
    grace: float = 0.5
    _groups: dict[Connection, str | None] = attrs.field(factory=dict, init=False)
    _counts: Counter[str] = attrs.field(factory=Counter, init=False)
    # Idle connections and the times since when they are idle, in this order: all, and those of each client, so that a
    # client at its limit evicts its own.
    _idle: dict[Connection, float] = attrs.field(factory=dict, init=False)
    _idle_of: dict[str, dict[Connection, float]] = attrs.field(factory=dict, init=False)
    _reserved: dict[Connection, float] = attrs.field(factory=dict, init=False)
    _reported: set[str] = attrs.field(factory=set, init=False)

    def __iter__(self) -> Iterator[Connection]:
        return iter([*self._groups, *self._reserved])

    def admit(self, connection: Connection) -> None:
        """Add a new connection, which is idle, and set its ``reserved``."""
        group = None
        if connection.address is not None and not is_within(connection.address, self.trusted):
            group = client_group(connection.address)
        if group is not None and self.per_client and self._counts[group] >= self.per_client:
            fits = self._evict_oldest(self._idle_of.get(group, {}), self.grace)
            if not fits:
                self._report(group, "a client has reached its limit of connections")
        else:
            fits = len(self._groups) < self.limit or self._evict_oldest(self._idle, self.grace)
            if not fits:
                self._report("", "the limit of connections is reached; only the health check is served on further ones")
        connection.reserved = not fits
        if fits:
            self._groups[connection] = group
            if group is not None:
                self._counts[group] += 1
            self.mark_idle(connection)
            return
        if len(self._reserved) >= self.reserve:
            self._evict_oldest(self._reserved, 0)
        self._reserved[connection] = self.clock.seconds()

    def idle_for(self, seconds: float) -> list[Connection]:
        """Return the connections that have had no request in flight for some time."""
        before = self.clock.seconds() - seconds
        return [connection for connection, since in self._idle.items() if since <= before]

    def mark_idle(self, connection: Connection) -> None:
        """Record that a connection has no request in flight, so that it can be evicted."""
        if connection not in self._groups:
            return
        now = self._idle[connection] = self.clock.seconds()
        group = self._groups[connection]
        if group is not None:
            self._idle_of.setdefault(group, {})[connection] = now

    def mark_busy(self, connection: Connection) -> None:
        """Record that a request has begun to arrive on a connection."""
        self._idle.pop(connection, None)
        group = self._groups.get(connection)
        if group is None:
            return
        idle = self._idle_of.get(group, {})
        idle.pop(connection, None)
        if not idle:
            self._idle_of.pop(group, None)

    def remove(self, connection: Connection) -> None:
        """Remove a connection that is lost or evicted. Removing it again has no effect."""
        self.mark_busy(connection)
        self._reserved.pop(connection, None)
        group = self._groups.pop(connection, None)
        if group is not None:
            self._counts[group] -= 1
            if self._counts[group] < self.per_client * _REPORT_AGAIN_BELOW:
                self._reported.discard(group)
            if not self._counts[group]:
                del self._counts[group]
        if len(self._groups) < self.limit * _REPORT_AGAIN_BELOW:
            self._reported.discard("")

    def _evict_oldest(self, candidates: dict[Connection, float], grace: float) -> bool:
        """Evict the first of some connections if it has been idle long enough.

        :param grace: seconds for which it must have been idle.
        :return: whether it was evicted.
        """
        oldest = next(iter(candidates), None)
        if oldest is None or candidates[oldest] > self.clock.seconds() - grace:
            return False
        self.remove(oldest)
        oldest.evict()
        return True

    def _report(self, group: str, event: str) -> None:
        if group not in self._reported:
            self._reported.add(group)
            log.warn(
                "{what}: {count}",
                what=event,
                count=self._counts[group] if group else len(self._groups),
                client=group or None,
            )
