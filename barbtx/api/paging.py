"""Pages of lists (contract, section 1.9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import attrs
from oslo_config import cfg

from barbtx.model.records import Page

_LARGEST_OFFSET = 2**63 - 1


@attrs.frozen
class Paging:
    """The part of a list that a request selects.

    :ivar limit: maximum number of items.
    :ivar offset: number of items before the page.
    """

    limit: int
    offset: int

    @classmethod
    def from_query(cls, query: Mapping[str, str], conf: cfg.ConfigOpts) -> Paging:
        """Read ``limit`` and ``offset``. Invalid values are replaced by the default or the nearest valid value."""
        limit = _integer(query.get("limit"))
        limit = conf.default_limit_paging if limit is None else min(max(limit, 1), conf.max_limit_paging)
        offset = _integer(query.get("offset"))
        return cls(limit, offset if offset is not None and 0 <= offset <= _LARGEST_OFFSET else 0)

    def document(
        self, name: str, items: list[Any], page: Page[Any], collection: str, query: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the response to a list request, with links to the previous and the next page.

        :param name: the property that holds the items.
        :param items: the page's items as clients see them.
        :param collection: the reference to the list.
        :param query: the request's query parameters, whose filters the links repeat.
        """
        document: dict[str, Any] = {name: items, "total": page.total}
        if items and self.offset + self.limit < page.total:
            document["next"] = self._link(collection, self.offset + self.limit, query)
        if items and self.offset > 0:
            document["previous"] = self._link(collection, max(0, self.offset - self.limit), query)
        return document

    def _link(self, collection: str, offset: int, query: Mapping[str, str]) -> str:
        filters = {key: value for key, value in query.items() if key not in ("limit", "offset")}
        return f"{collection}?limit={self.limit}&offset={offset}" + (f"&{urlencode(filters)}" if filters else "")


def _integer(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return None
