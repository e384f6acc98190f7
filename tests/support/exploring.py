"""Property-based tests of asynchronous code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread


async def explore(check: Callable[..., Any], **strategies: Any) -> None:
    """Have Hypothesis, which calls plain functions, look for a case in which an asynchronous check fails."""
    from twisted.internet import reactor

    @settings(max_examples=60, deadline=None)
    @given(**strategies)
    def case(**drawn: Any) -> None:
        blockingCallFromThread(reactor, lambda: Deferred.fromCoroutine(check(**drawn)))

    await deferToThread(case)
