"""The kinds of plaintext that stores and crypto plugins handle."""

from __future__ import annotations

import enum


class Domain(enum.Enum):
    """A kind of plaintext. A plaintext that was stored as one kind must never be returned as another.

    The caller's own purpose determines the domain; it is never read from the row that holds the ciphertext.
    """

    PAYLOAD = "payload"
    ORDER_PASSPHRASE = "order passphrase"

    def __repr__(self) -> str:
        return str(self)
