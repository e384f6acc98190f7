"""Who may use a database that has not been checked yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import attrs

_exempt: ContextVar[bool] = ContextVar("barbtx_exempt_from_gate", default=False)


@attrs.define(eq=False)
class AccessGate:
    """Lets everybody to a database or, while it is closed, only what runs under :meth:`exempt`."""

    _closed: bool = attrs.field(default=False, init=False)

    def close(self) -> None:
        """Let nobody in but those who are exempt."""
        self._closed = True

    def open(self) -> None:
        """Let everybody in."""
        self._closed = False

    def admits(self) -> bool:
        """Whether the caller may use the database."""
        return not self._closed or _exempt.get()

    @contextmanager
    def exempt(self) -> Iterator[None]:
        """What is called inside, and the coroutines that it starts, may use the database all the same."""
        token = _exempt.set(True)
        try:
            yield
        finally:
            _exempt.reset(token)
