"""Validation of ids in paths."""

from __future__ import annotations

import re

from barbtx.errors import NotFound

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def require_uuid4(text: str, kind: str) -> str:
    """Return an id if it is a version 4 UUID in canonical form, with lower-case digits.

    :param kind: the kind of object, for the error's description.
    :raises NotFound: the id is not such a UUID.
    """
    if not _UUID4.fullmatch(text):
        raise NotFound(f"Not Found. Provided {kind} id is invalid.")
    return text
