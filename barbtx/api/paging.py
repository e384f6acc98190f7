"""Pages of lists. Source: the contract, section 1.9."""

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
    """Which part of a list is asked for."""

    limit: int
    offset: int

    @classmethod
    def from_query(cls, query: Mapping[str, str], conf: cfg.ConfigOpts) -> Paging:
        """Read ``limit`` and ``offset``. They are never an error: what makes no sense gives the nearest that does."""
        limit = _integer(query.get("limit"))
        limit = conf.default_limit_paging if limit is None else min(max(limit, 1), conf.max_limit_paging)
        offset = _integer(query.get("offset"))
        return cls(limit, offset if offset is not None and 0 <= offset <= _LARGEST_OFFSET else 0)

    def document(
        self, name: str, items: list[Any], page: Page, collection: str, query: Mapping[str, str]
    ) -> dict[str, Any]:
        """A list answer, with links to the pages before and after.

        :param collection: the list's own reference.
        :param query: of the request; its filters go into the links.
        """
        document = {name: items, "total": page.total}
        if items and self.offset + self.limit < page.total:
            document["next"] = self._link(collection, self.offset + self.limit, query)
        if items and self.offset > 0:
            document["previous"] = self._link(collection, max(0, self.offset - self.limit), query)
        return document

    def _link(self, collection: str, offset: int, query: Mapping[str, str]) -> str:
        filters = {key: value for key, value in query.items() if key not in ("limit", "offset")}
        return f"{collection}?{urlencode({'limit': self.limit, 'offset': offset, **filters})}"


def _integer(text: str | None) -> int | None:
    try:
        return int(text)
    except (TypeError, ValueError):
        return None
