"""One answer for everybody who asks the same at the same time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class SingleFlight:
    """Questions under way, each asked once however many wait for its answer."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Deferred[Any]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Deferred[Any]:
        """The answer to a question; ``ask`` is called if nobody is asking it already.

        Who cancels stops waiting; the question goes on for the others, and for whoever asks next.
        """
        answer: Deferred[Any] = Deferred(lambda cancelled: self._leave(key, cancelled))
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(answer)
            return answer
        self._waiting[key] = [answer]
        Deferred.fromCoroutine(ask()).addBoth(self._land, key)
        return answer

    def is_awaited(self, key: Hashable) -> bool:
        """Whether anybody still waits for the answer to a question."""
        return bool(self._waiting.get(key))

    def _leave(self, key: Hashable, answer: Deferred[Any]) -> None:
        waiting = self._waiting.get(key, [])
        if answer in waiting:
            waiting.remove(answer)

    def _land(self, outcome: object, key: Hashable) -> None:
        for answer in self._waiting.pop(key):
            if isinstance(outcome, Failure):
                answer.errback(outcome)
            else:
                answer.callback(outcome)
