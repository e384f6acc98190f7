"""Lanes: tasks that take long do not delay those that are quick, and in each lane the projects take turns."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class Lane:
    """A worker's position in a lane.

    :ivar name: one of the lanes of :func:`barbtx.model.records.lane_of`.
    :ivar last: internal ID of the project that had the last turn.
    :ivar claimed: how many orders this worker has claimed in the lane.
    """

    name: str
    last: str = ""
    claimed: int = 0

    def record_turn(self, project_key: str) -> None:
        """Record that an order was claimed.

        :param project_key: internal ID of its project, whose turn it was.
        """
        self.last = project_key
        self.claimed += 1
