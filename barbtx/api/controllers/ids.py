"""Identifiers in paths."""

from __future__ import annotations

import re

from barbtx.errors import NotFound

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def require_uuid4(text: str, kind: str) -> str:
    """Return the text if it is a UUID of version 4 in its one canonical, lower-case form.

    :param kind: what it identifies, for the error.
    :raises NotFound: it is not.
    """
    if not _UUID4.fullmatch(text):
        raise NotFound(f"Not Found. Provided {kind} id is invalid.")
    return text
