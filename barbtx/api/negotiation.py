"""Content negotiation by the ``Accept`` header (contract, section 1.6)."""

from __future__ import annotations

import re

JSON = "application/json"
_JSON_RANGES = frozenset({"*/*", "application/*", JSON})
_MEDIA_RANGE = re.compile(r"[^\s/;,]+/[^\s/;,]+")


def accepts_json(accept: str | None) -> bool:
    """Return whether an ``Accept`` header allows JSON. A malformed header allows everything."""
    return _accepts(accept, _JSON_RANGES)


def accepts_json_alone(accept: str | None) -> bool:
    """Return whether an ``Accept`` header is missing or is a single media range that includes JSON."""
    return not accept or (media_type(accept) in _JSON_RANGES and "," not in accept)


def accepts_version_document(accept: str | None) -> bool:
    """Return whether an ``Accept`` header allows JSON or JSON Home."""
    return _accepts(accept, _JSON_RANGES | {"application/json-home"})


def accepts_anything(accept: str | None) -> bool:
    """Return True: the response does not depend on the ``Accept`` header, or the handler reads it."""
    return True


def _accepts(accept: str | None, ranges: frozenset[str]) -> bool:
    if not accept:
        return True
    requested = [media_type(item) for item in accept.split(",")]
    return any(item in ranges for item in requested) or not any(_MEDIA_RANGE.fullmatch(item) for item in requested)


def media_type(value: str) -> str:
    """Return the media type of a header's value, in lower case and without parameters."""
    return value.partition(";")[0].strip().lower()
