"""Waiting in memory so that those who wait for little do not wait for those who wait for much."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.define(eq=False)
class FairQueue(Generic[T]):
    """A queue of items that belong to owners: owners take turns, and the items of each come out in their order."""

    _waiting: OrderedDict[object, deque[T]] = attrs.field(factory=OrderedDict, init=False)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, owner: object, item: T) -> None:
        """Add an item of an owner."""
        self._waiting.setdefault(owner, deque()).append(item)

    def get(self) -> T:
        """Take the next item.

        :raises KeyError: there is none.
        """
        owner, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[owner] = items
        return item
