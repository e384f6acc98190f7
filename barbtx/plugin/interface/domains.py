"""The kinds of plaintext that stores and crypto plugins are given."""

from __future__ import annotations

import enum


class Domain(enum.Enum):
    """A kind of plaintext. What was stored as one kind must never be given back as another.

    Who asks knows the kind from its own purpose; it is never read from the row that holds the ciphertext.
    """

    PAYLOAD = "payload"
    ORDER_PASSPHRASE = "order passphrase"

    def __repr__(self) -> str:
        return str(self)
