"""What the figures of :mod:`benchmarks.speed` should be: the only place that says so."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

#: Numbers of connections with which everything is measured.
CONNECTIONS = (8, 64)


@attrs.frozen
class Target:
    """What one operation should reach on PostgreSQL, whatever authenticates its callers.

    :ivar percent: its requests/s, at least, in percent of hello's, by number of connections.
    :ivar p99: its 99th percentile at 64 connections, at most, in units of hello's.
    """

    percent: Mapping[int, float]
    p99: float | None = None


#: By the names of the operations.
TARGETS: Mapping[str, Target] = {
    "payload": Target({64: 75, 8: 60}, p99=3),
    "secret": Target({64: 75, 8: 60}, p99=3),
    "list-50": Target({64: 35, 8: 25}, p99=4),
    "list-20000": Target({64: 30, 8: 20}, p99=4),
    "store": Target({64: 40, 8: 30}, p99=5),
    "order": Target({64: 30, 8: 25}, p99=5),
    "done": Target({64: 20}),
}
#: Requests/s of reads with two API processes on one port, at least, in units of one process, by number of connections.
TWO_PROCESSES: Mapping[int, float] = {64: 1.5, 8: 1.2}
#: Requests/s on SQLite and MariaDB, at least, in units of an earlier run, by kind of operation.
AGAINST_BASELINE: Mapping[str, float] = {"read": 3, "write": 2}


@attrs.frozen
class Goal:
    """A figure that has a target.

    :ivar what: the figure, in a few words.
    :ivar at_most: whether the target is a maximum; otherwise it is a minimum.
    """

    what: str
    measured: float
    target: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.measured <= self.target if self.at_most else self.measured >= self.target
