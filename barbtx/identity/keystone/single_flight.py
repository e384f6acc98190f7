"""Single flight: concurrent callers who need the same result share one call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """The calls in flight, by key. ``len()`` is their number."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Deferred[T]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """Wait for the result of a call; make the call if none is in flight for the key.

        Cancelling the Deferred stops waiting. The call continues for other callers, including later ones.
        """
        result: Deferred[T] = Deferred(lambda cancelled: self._leave(key, cancelled))
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(result)
            return result
        self._waiting[key] = [result]
        Deferred.fromCoroutine(call()).addBoth(self._finish, key)
        return result

    def is_awaited(self, key: Hashable) -> bool:
        """Return whether a call is in flight for a key and a caller waits for its result."""
        return bool(self._waiting.get(key))

    def _leave(self, key: Hashable, result: Deferred[T]) -> None:
        waiting = self._waiting.get(key, [])
        if result in waiting:
            waiting.remove(result)

    def _finish(self, outcome: T | Failure, key: Hashable) -> None:
        for result in self._waiting.pop(key):
            if isinstance(outcome, Failure):
                result.errback(outcome)
            else:
                result.callback(outcome)
