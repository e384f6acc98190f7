"""A gate that refuses transactions until the checks at startup have passed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import attrs

_exempt: ContextVar[bool] = ContextVar("barbtx_exempt_from_gate", default=False)


@attrs.define(eq=False)
class AccessGate:
    """Admits every caller while it is open, and only code inside :meth:`exempt` while it is closed."""

    _closed: bool = attrs.field(default=False, init=False)

    def close(self) -> None:
        """Refuse callers that are not exempt."""
        self._closed = True

    def open(self) -> None:
        """Admit every caller."""
        self._closed = False

    def admits(self) -> bool:
        """Whether the caller may run a transaction."""
        return not self._closed or _exempt.get()

    @contextmanager
    def exempt(self) -> Iterator[None]:
        """Exempt the code inside the block, and the coroutines that it starts, from the gate."""
        token = _exempt.set(True)
        try:
            yield
        finally:
            _exempt.reset(token)
