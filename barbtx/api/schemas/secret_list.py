"""Filters and sort order of lists of secrets (contract, section 3.7)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping

from barbtx.errors import InvalidQuery
from barbtx.model.repositories.listing import Condition
from barbtx.model.repositories.secrets import COLUMNS
from barbtx.times import parse_time

_LIKE = {"name": "name", "alg": "algorithm", "mode": "mode"}
_TIMES = ("created", "updated", "expiration")
_LOWER, _UPPER = frozenset({"gt", "gte"}), frozenset({"lt", "lte"})
_COMPARISONS = _LOWER | _UPPER
_LARGEST_INTEGER = 2**31 - 1

# A time whose UTC offset follows a space: a plus sign that the client did not encode as %2B.
_UNENCODED_PLUS = re.compile(r"([^ ]+[T ][^ T]+) (\d\d(?::?\d\d)?)")


def read_conditions(query: Mapping[str, str]) -> tuple[Condition, ...]:
    """Read the filters of a list request. Parameters with an empty value are ignored.

    :raises InvalidQuery: a condition on a time is malformed, or two contradict each other.
    """
    return tuple(_conditions(query))


def _conditions(query: Mapping[str, str]) -> Iterator[Condition]:
    for parameter, column in _LIKE.items():
        if query.get(parameter):
            yield Condition(column, "like", query[parameter])
    if query.get("secret_type"):
        yield Condition("secret_type", "eq", query["secret_type"])
    try:
        bits = int(query.get("bits", ""))
    except ValueError:
        bits = 0
    if bits > 0:
        yield Condition("bit_length", "eq", min(bits, _LARGEST_INTEGER))
    for column in _TIMES:
        if query.get(column):
            yield from _time_conditions(column, query[column])


def _time_conditions(column: str, text: str) -> Iterator[Condition]:
    seen: list[str] = []
    for item in text.split(","):
        prefix, colon, rest = item.partition(":")
        # Times contain colons too, but a prefix starts with a letter.
        comparison, moment = (prefix, rest) if colon and prefix[:1].isalpha() else ("eq", item)
        if comparison not in _COMPARISONS | {"eq"} or (comparison == "eq" and moment is not item):
            raise InvalidQuery
        _check_together(comparison, seen)
        seen.append(comparison)
        try:
            yield Condition(column, comparison, _read_time(moment))
        except ValueError:
            raise InvalidQuery from None


def _read_time(text: str) -> datetime.datetime:
    """Parse the time of a condition to naive UTC.

    :raises ValueError: the text is not an ISO 8601 time.
    """
    match = _UNENCODED_PLUS.fullmatch(text)
    return parse_time(f"{match[1]}+{match[2]}" if match else text)


def _check_together(comparison: str, seen: list[str]) -> None:
    for bounds in (_LOWER, _UPPER):
        if comparison in bounds and bounds & set(seen):
            raise InvalidQuery
    if comparison in ("gte", "lte") and "eq" in seen:
        raise InvalidQuery
    if comparison == "eq" and {"eq", "gte", "lte"} & set(seen):
        raise InvalidQuery


def read_sort(query: Mapping[str, str]) -> tuple[tuple[str, bool], ...]:
    """Read the sort order of a list request: pairs of a column and whether it is sorted in descending order.

    :raises InvalidQuery: a column does not exist or is repeated, or a direction is neither ``asc`` nor ``desc``.
    """
    if not query.get("sort"):
        return ()
    sort: dict[str, bool] = {}
    for item in query["sort"].split(","):
        name, *direction = item.split(":")
        if name not in COLUMNS or name in sort or direction not in ([], ["asc"], ["desc"]):
            raise InvalidQuery
        sort[name] = direction == ["desc"]
    return tuple(sort.items())
