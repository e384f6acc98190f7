"""A queue in memory that serves its owners in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.define(eq=False)
class FairQueue(Generic[T]):
    """A queue of items that belong to owners. Owners take turns; the items of one owner come out in FIFO order."""

    _waiting: OrderedDict[object, deque[T]] = attrs.field(factory=OrderedDict, init=False)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, owner: object, item: T) -> None:
        """Add an item."""
        self._waiting.setdefault(owner, deque()).append(item)

    def get(self) -> T:
        """Remove and return the next item.

        :raises KeyError: the queue is empty.
        """
        owner, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[owner] = items
        return item
