"""JSON documents: the one place where they are read and written.

What is written is always JSON as RFC 8259 has it, so that strict parsers can read it: ``NaN`` and ``Infinity`` are
neither taken from clients nor sent to them. Numbers without a fraction are integers however they are written, since
many clients read ``128.0`` or ``1e2`` into an integer type and fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from barbtx.errors import MalformedJSON

#: How many objects and arrays a document may have inside each other; clients' parsers have limits of their own.
MAX_DEPTH = 64

# The largest double has 309 digits.
_MAX_DIGITS = 309
# Larger ones are written with an exponent, as ECMAScript does: a few characters cannot become hundreds of digits.
_LARGEST_WRITTEN_OUT = 10**21


class UnusableNumber(ValueError):
    """A number that a double-precision float cannot hold."""


def read(text: str) -> Any:
    """Read JSON text from a client.

    :raises MalformedJSON: it is not JSON, is nested too deeply, or has a number that cannot be represented.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant, parse_int=_integer, parse_float=_number)
    except UnusableNumber as problem:
        raise MalformedJSON(str(problem)) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise MalformedJSON from None
    if _is_deeper(document, text, MAX_DEPTH):
        raise _too_deep()
    return document


def read_stored(text: str) -> Any:
    """Read JSON text from the database, where earlier releases may have stored what :func:`read` refuses.

    ``NaN`` and infinite numbers become null, and a document that cannot be read at all an empty object, so that one of
    them does not make a whole list unreadable.
    """
    try:
        document = json.loads(text, parse_constant=lambda name: None, parse_float=_or_null(_number))
    except (ValueError, RecursionError):
        return {}
    # A deep document may have been readable when it was stored, but not be writable here.
    return {} if _is_deeper(document, text, 2 * MAX_DEPTH) else document


def write(document: Any, *, ascii_only: bool = True) -> str:
    """Write JSON text.

    :raises ValueError: a number in the document is not finite.
    """
    return json.dumps(document, allow_nan=False, ensure_ascii=ascii_only)


def _too_deep() -> MalformedJSON:
    return MalformedJSON(f"the body is nested too deeply; at most {MAX_DEPTH} levels are allowed")


def _no_constant(name: str) -> None:
    raise UnusableNumber(f"{name} is not a JSON number")


def _integer(text: str) -> int:
    # Checked first, since the time that it takes to read an integer grows with the square of its length.
    if len(text.lstrip("-")) <= _MAX_DIGITS:
        value = int(text)
        try:
            float(value)
            return value
        except OverflowError:
            pass
    raise UnusableNumber("a number is too large")


def _number(text: str) -> int | float:
    """A number that is written with a fraction or an exponent."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise UnusableNumber("a number is too large")
    if value == 0:
        if text.lower().partition("e")[0].strip("-0."):
            raise UnusableNumber("a number is too close to zero")
        return 0
    if not value.is_integer() or abs(value) >= _LARGEST_WRITTEN_OUT:
        return value
    exact = Decimal(text)
    return int(exact if exact == exact.to_integral_value() else value)


def _or_null(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except UnusableNumber:
            return None

    return parsed


def _is_deeper(document: Any, text: str, levels: int) -> bool:
    """Whether objects and arrays are nested in more than so many levels.

    :param text: of the document.
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
