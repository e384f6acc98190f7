"""Parsing and serialization of JSON documents.

The output conforms to RFC 8259, so that strict parsers can read it: ``NaN`` and ``Infinity`` are neither accepted from
clients nor sent to them. Numbers without a fraction become integers even if they were written as ``128.0`` or ``1e2``,
because many clients cannot parse those into an integer type.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from barbtx.errors import MalformedJSON

#: Maximum nesting depth of objects and arrays. Clients' parsers have limits too.
MAX_DEPTH = 64

# The largest double has 309 digits.
_MAX_DIGITS = 309
# From this magnitude on, numbers are serialized with an exponent, as in ECMAScript, so that a few characters of input
# cannot become hundreds of digits of output.
_EXPONENT_FROM = 10**21
_ASCII, _UNICODE = json.JSONEncoder(allow_nan=False), json.JSONEncoder(allow_nan=False, ensure_ascii=False)
# Beyond this, not every integer is a double.
_EXACT_UP_TO = 2**53


_ASCII = json.JSONEncoder(allow_nan=False)
_UNICODE = json.JSONEncoder(allow_nan=False, ensure_ascii=False)


class UnrepresentableNumber(ValueError):
    """A number that a double-precision float cannot represent."""


def read(text: str) -> Any:
    """Parse JSON text from a client.

    :raises MalformedJSON: the text is not JSON, is nested too deeply, or has a number that cannot be represented.
    """
    try:
        document = json.loads(text, parse_constant=_reject_constant, parse_int=_integer, parse_float=_number)
    except UnrepresentableNumber as problem:
        raise MalformedJSON(str(problem)) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise MalformedJSON from None
    if _is_deeper(document, text, MAX_DEPTH):
        raise _too_deep()
    return document


def read_stored(text: str) -> Any:
    """Parse JSON text from the database, where earlier releases may have stored text that :func:`read` rejects.

    ``NaN`` and infinite numbers become null. A document that cannot be parsed becomes an empty object, so that it does
    not make a whole list unreadable.
    """
    try:
        document = json.loads(text, parse_constant=lambda name: None, parse_float=_or_null(_number))
    except (ValueError, RecursionError):
        return {}
    # A document that is nested this deeply can be parsed, but perhaps not serialized.
    return {} if _is_deeper(document, text, 2 * MAX_DEPTH) else document


def write(document: Any, *, ascii_only: bool = True) -> str:
    """Serialize a document to JSON text.

    :param ascii_only: whether to escape all other characters.
    :raises ValueError: a number in the document is not finite.
    """
    return (_ASCII if ascii_only else _UNICODE).encode(document)


def _too_deep() -> MalformedJSON:
    return MalformedJSON(f"the body is nested too deeply; at most {MAX_DEPTH} levels are allowed")


def _reject_constant(name: str) -> None:
    raise UnrepresentableNumber(f"{name} is not a JSON number")


def _integer(text: str) -> int:
    # The length is checked first, because the time to parse an integer grows with the square of its length.
    if len(text.lstrip("-")) <= _MAX_DIGITS:
        value = int(text)
        try:
            float(value)
            return value
        except OverflowError:
            pass
    raise UnrepresentableNumber("a number is too large")


def _number(text: str) -> int | float:
    """Parse a number that has a fraction or an exponent."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise UnrepresentableNumber("a number is too large")
    if value == 0:
        if text.lower().partition("e")[0].strip("-0."):
            raise UnrepresentableNumber("a number is too close to zero")
        return 0
    if not value.is_integer() or abs(value) >= _EXPONENT_FROM:
        return value
    exact = Decimal(text)
    if exact == exact.to_integral_value():
        return int(exact)
    # As an integer, a large number that only rounding made whole would look exact.
    return int(value) if abs(value) < _EXACT_UP_TO else value


def _or_null(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse_or_null(text: str) -> Any:
        try:
            return parse(text)
        except UnrepresentableNumber:
            return None

    return parse_or_null


def _is_deeper(document: Any, text: str, levels: int) -> bool:
    """Return whether objects and arrays are nested more deeply than a number of levels.

    :param text: the document as JSON text, which is cheaper to check for most documents.
    """
    if text.count("[") + text.count("{") <= levels:
        return False
    level = [document]
    for _ in range(levels + 1):
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return False
        level = [
            item for container in level for item in (container.values() if isinstance(container, dict) else container)
        ]
    return True
