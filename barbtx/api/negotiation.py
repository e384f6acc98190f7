"""Which representation a client takes, and which it sends. Source: the contract, section 1.6."""

from __future__ import annotations

import re

JSON = "application/json"
_JSON_RANGES = frozenset({"*/*", "application/*", JSON})
_MEDIA_RANGE = re.compile(r"[^\s/;,]+/[^\s/;,]+")


def accepts_json(accept: str | None) -> bool:
    """Whether an Accept header lets JSON through. One that cannot be read lets everything through."""
    return _accepts(accept, _JSON_RANGES)


def accepts_json_alone(accept: str | None) -> bool:
    """Whether an Accept header asks for JSON, or for nothing in particular; a list does not."""
    return not accept or (media_type(accept) in _JSON_RANGES and "," not in accept)


def accepts_version_document(accept: str | None) -> bool:
    """Whether an Accept header lets a version document through."""
    return _accepts(accept, _JSON_RANGES | {"application/json-home"})


def accepts_anything(accept: str | None) -> bool:
    return True


def _accepts(accept: str | None, ranges: frozenset[str]) -> bool:
    wanted = [media_type(item) for item in (accept or "").split(",")]
    return any(item in ranges for item in wanted) or not any(_MEDIA_RANGE.fullmatch(item) for item in wanted)


def media_type(value: str) -> str:
    """A header value's media type, without parameters, in lower case."""
    return value.partition(";")[0].strip().lower()
