"""Lets API processes on the same machine go first."""

from __future__ import annotations

import os

import attrs
from twisted.application.service import Service


@attrs.define(eq=False, slots=False)
class Niceness(Service):
    """Raises the niceness of the process when it starts, before it has further threads.

    :ivar niceness: is added to the niceness with which the process was started; see nice(2).
    """

    niceness: int

    def startService(self) -> None:
        """Raise the niceness."""
        super().startService()
        if self.niceness:
            os.nice(self.niceness)
