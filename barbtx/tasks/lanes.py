"""Lanes: what is quick to process does not wait for what takes long, and the projects in a lane take turns."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class Lane:
    """A worker's place in a lane.

    :ivar name: one of those of :func:`barbtx.model.records.lane_of`.
    :ivar last: internal id of the project whose turn it was last.
    :ivar served: how many orders were taken in hand.
    """

    name: str
    last: str = ""
    served: int = 0

    def took(self, project_key: str) -> None:
        """Remember whose turn it was."""
        self.last = project_key
        self.served += 1
