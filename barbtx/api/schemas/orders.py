"""Request bodies of orders (contract, section 9)."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import attrs

from barbtx.api import json_documents
from barbtx.api.schemas.secrets import METADATA_PROPERTIES, UNSUPPORTED_TYPE, read_content_type, read_expiration
from barbtx.api.validation import Schema
from barbtx.errors import SchemaMismatch

# The API's name, and the one that python-barbicanclient sends. Neither may be stored with the order in plaintext.
_PASSPHRASES = ("passphrase", "pass_phrase")

META = Schema(
    "Secret' within 'Order",
    {
        "type": "object",
        "required": ["algorithm", "bit_length"],
        "properties": METADATA_PROPERTIES
        | {
            "algorithm": {"type": "string", "minLength": 1, "maxLength": 255},
            "payload_content_type": {"type": ["string", "null"], "maxLength": 255},
            **{name: {"type": ["string", "null"]} for name in _PASSPHRASES},
        },
    },
)

ORDER = Schema(
    "Order",
    {
        "type": "object",
        "required": ["type", "meta"],
        "properties": {
            "type": {"type": "string", "enum": ["key", "asymmetric"]},
            "meta": {"type": "object"},
        },
    },
    parts={"meta": META},
)

_EC_BIT_LENGTHS = (256, 384, 521)


@attrs.frozen
class OrderRequest:
    """The content of an order request.

    :ivar meta: JSON text of the order's ``meta`` as it is stored and shown: without the passphrase, which callers who
        may read the order must not see, and with ``name`` and ``expiration``, null if missing.
    :ivar passphrase: the passphrase for the private key of an asymmetric order.
    """

    meta: str
    passphrase: str | None = attrs.field(default=None, repr=False)


def read_meta(document: Mapping[str, Any], now: datetime.datetime) -> OrderRequest:
    """Read the ``meta`` of an order request.

    :param now: naive UTC.
    :raises SchemaMismatch: ``meta`` is not valid.
    """
    meta = document["meta"]
    if "payload" in meta:
        raise _mismatch("'payload' not allowed for order creation", "payload")
    META.check(meta)
    if meta["algorithm"].lower() == "ec":
        if meta["bit_length"] not in _EC_BIT_LENGTHS:
            raise _mismatch("'bit_length' must be 256, 384 or 521 for this algorithm", "bit_length")
    elif meta["bit_length"] % 8:
        raise _mismatch("'bit_length' must be a multiple of 8", "bit_length")
    if meta.get("payload_content_type") is not None:
        try:
            read_content_type(meta["payload_content_type"])
        except ValueError:
            raise _mismatch(UNSUPPORTED_TYPE, "payload_content_type") from None
    expiration = read_expiration(meta, now, META.name)
    shown = {key: value for key, value in meta.items() if key not in _PASSPHRASES}
    shown |= {
        "name": meta.get("name"),
        "expiration": expiration.isoformat(timespec="microseconds") if expiration else None,
    }
    passphrase = next((meta[name] for name in _PASSPHRASES if meta.get(name)), None)
    return OrderRequest(
        json_documents.write(shown, ascii_only=False), passphrase if document["type"] == "asymmetric" else None
    )


def _mismatch(reason: str, prop: str) -> SchemaMismatch:
    return SchemaMismatch(META.name, reason, prop)
