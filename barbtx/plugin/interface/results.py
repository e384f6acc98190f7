"""Results that a plugin returns either at once or later."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeAlias, TypeVar, cast

T = TypeVar("T")

#: The result of a plugin's method: a value, or an awaitable of it (a coroutine or a Deferred).
MaybeAwaitable: TypeAlias = T | Awaitable[T]


async def resolve(result: MaybeAwaitable[T]) -> T:
    """Wait for the result of a plugin's method.

    :raises Exception: any exception of the awaitable.
    """
    return await cast(Awaitable[T], result) if hasattr(result, "__await__") else result
