"""The ids of requests."""

from __future__ import annotations

import os

# Ids for which random bytes are read at a time.
_BATCH = 256

_random: list[str] = []


def new_request_id() -> str:
    """Return a new id, ``req-<uuid>``. An id that the client sends is never used, since it may not be unique."""
    if not _random:
        digits = os.urandom(16 * _BATCH).hex()
        _random.extend(digits[start : start + 32] for start in range(0, 32 * _BATCH, 32))
    text = _random.pop()
    # A UUID of version 4 (RFC 9562): four bits are the version, two the variant.
    variant = "89ab"[int(text[16], 16) & 3]
    return f"req-{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


# A forked process must not return the same ids.
os.register_at_fork(after_in_child=_random.clear)
