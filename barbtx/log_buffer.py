"""A buffer for log lines: the system is called some times a second instead of once for each line."""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from barbtx.validators import provides

# The time for which a line may wait, and the number of characters that may wait.
_SECONDS = 0.05
_CHARACTERS = 1 << 16


@attrs.define(eq=False)
class LineBuffer:
    """Collects lines between :meth:`start` and :meth:`stop`, and writes them after 50 ms or 64 Ki characters at most.

    Before and after, each line is written at once. So are urgent lines and those of other threads, together with the
    lines that wait, so that the order of lines is kept.

    :ivar clock: its timers run in the thread that calls :meth:`start`.
    :ivar through: writes text and flushes it.
    """

    clock: IReactorTime = attrs.field(validator=provides(IReactorTime))
    through: Callable[[str], object]
    _lines: list[str] = attrs.field(factory=list, init=False)
    _size: int = attrs.field(default=0, init=False)
    _thread: int | None = attrs.field(default=None, init=False)
    _call: IDelayedCall | None = attrs.field(default=None, init=False)
    # Reentrant, because the garbage collector may log at any point.
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False)

    def start(self) -> None:
        """Begin to collect the lines of this thread."""
        self._thread = threading.get_ident()

    def stop(self) -> None:
        """Write the lines that wait, and each further one at once."""
        self._thread = None
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.flush()

    def write(self, line: str, *, urgent: bool) -> None:
        """Add a line."""
        with self._lock:
            self._lines.append(line)
            self._size += len(line)
            if urgent or self._size >= _CHARACTERS or self._thread != threading.get_ident():
                self.flush()
            elif self._call is None:
                self._call = self.clock.callLater(_SECONDS, self._due)

    def flush(self) -> None:
        """Write the lines that wait. Lines that cannot be written are lost, as without a buffer."""
        with self._lock:
            if self._lines:
                text = "".join(self._lines)
                self._lines.clear()
                self._size = 0
                self.through(text)

    def _due(self) -> None:
        self._call = None
        self.flush()
