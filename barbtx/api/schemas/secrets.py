"""Bodies of secrets. Source: the contract, sections 3.2 and 3.3."""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Mapping
from typing import Any

import attrs

from barbtx.api.validation import Schema
from barbtx.errors import BadRequest, SchemaMismatch, TooLarge
from barbtx.times import parse_time, whole_second

SECRET_TYPES = ("symmetric", "public", "private", "certificate", "passphrase", "opaque")

TEXT = "text/plain"
OCTETS = "application/octet-stream"
PKCS8 = "application/pkcs8"
_BINARY = (OCTETS, PKCS8)
#: How clients write that text is UTF-8, which it is in any case.
TEXT_SPELLINGS = (TEXT, f"{TEXT};charset=utf-8", f"{TEXT}; charset=utf-8")
#: Known to clients in this form; the value itself is left out, since it may be a misplaced payload.
UNSUPPORTED_TYPE = f"payload_content_type is not one of {[*TEXT_SPELLINGS, *_BINARY]}"

_WHITE_SPACE = re.compile(rb"[ \t\r\n\f\v]+")

#: Properties that a new secret and the meta of an order have in common.
METADATA_PROPERTIES: dict[str, Any] = {
    "name": {"type": ["string", "null"], "maxLength": 255},
    "algorithm": {"type": "string", "maxLength": 255},
    "mode": {"type": "string", "maxLength": 255},
    "bit_length": {"type": "integer", "minimum": 1, "maximum": 32767},
    "expiration": {"type": "string", "maxLength": 255},
    "secret_type": {"type": "string", "enum": list(SECRET_TYPES)},
    "payload_content_type": {"type": "string", "maxLength": 255},
    "payload_content_encoding": {"type": "string", "enum": ["base64"]},
    "transport_key_needed": {"type": "string", "enum": ["true", "false"]},
    "transport_key_id": {"type": "string"},
}

SECRET = Schema(
    "Secret",
    {
        "type": "object",
        "properties": METADATA_PROPERTIES | {"payload": {"type": "string"}},
    },
)


@attrs.frozen
class Payload:
    """A payload and its media type, without parameters."""

    content: bytes = attrs.field(repr=False)
    content_type: str


def read_expiration(document: Mapping[str, Any], now: datetime.datetime, schema: str) -> datetime.datetime | None:
    """When a new secret expires, with the fraction of its second; None for never.

    Secrets expire in whole seconds, so the whole second must be in the future.

    :raises SchemaMismatch: the time cannot be read, or is not in the future.
    """
    text = document.get("expiration")
    if not text:
        return None
    try:
        expiration = parse_time(text)
    except ValueError:
        raise SchemaMismatch(schema, "Invalid date for 'expiration'; write ISO 8601", "expiration") from None
    if whole_second(expiration) <= now:
        raise SchemaMismatch(schema, "'expiration' is before current time", "expiration")
    return expiration


def read_content_type(text: str) -> str:
    """The media type that a content type names, if it is one that payloads may have.

    :raises ValueError: it is none.
    """
    kind, *parameters = (part.strip().lower() for part in text.split(";"))
    if parameters:
        _, equals, value = parameters[0].partition("=")
        if not equals or value.strip() != "utf-8":
            raise ValueError("unsupported parameter")
    if kind not in (TEXT, *_BINARY):
        raise ValueError("unsupported media type")
    return kind


def read_payload(document: Mapping[str, Any], max_bytes: int) -> Payload | None:
    """The payload that comes with a new secret, decoded; None if there is none.

    :param max_bytes: of the payload as it was sent.
    :raises SchemaMismatch: type, encoding and payload do not go together.
    :raises TooLarge: it is longer than it may be.
    """
    given_type = document.get("payload_content_type")
    text = document.get("payload")
    if text is None:
        if "payload_content_type" in document:
            raise _mismatch("payload must be provided when payload_content_type is supplied", "payload_content_type")
        return None
    if given_type is None:
        raise _mismatch(
            "If 'payload' is supplied, 'payload_content_type' must also be supplied", "payload_content_type"
        )
    try:
        kind = read_content_type(given_type)
    except ValueError:
        raise _mismatch(UNSUPPORTED_TYPE, "payload_content_type") from None
    encoding = document.get("payload_content_encoding")
    if kind == TEXT and encoding is not None:
        raise _mismatch("payload_content_encoding must not be provided with text", "payload_content_encoding")
    if kind != TEXT and encoding is None:
        raise _mismatch(
            "payload_content_encoding must be 'base64' for this payload_content_type", "payload_content_encoding"
        )
    encoded = text.encode()
    if not encoded:
        raise _mismatch("If 'payload' specified, must be non empty", "payload")
    if len(encoded) > max_bytes:
        raise _too_large(max_bytes)
    if kind == TEXT:
        return Payload(encoded, kind)
    try:
        return Payload(decode_base64(encoded), kind)
    except ValueError:
        raise _mismatch("payload is not base64", "payload") from None


def decode_base64(encoded: bytes) -> bytes:
    """Decode RFC 4648 section 4 base64 with its padding; white space in between is allowed.

    :raises ValueError: it is anything else, or of nothing.
    """
    try:
        decoded = base64.b64decode(_WHITE_SPACE.sub(b"", encoded), validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
    if not decoded:
        raise ValueError("empty")
    return decoded


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"Provided information too large to process: a payload may have {max_bytes} bytes.")


def read_put_payload(
    content: bytes, too_large: bool, content_type: str, encoding: str | None, max_bytes: int
) -> Payload:
    """The payload that is added to a secret with PUT.

    :param too_large: whether the body was cut at the limit, or before.
    :param content_type: its media type, without parameters.
    :param encoding: the Content-Encoding header.
    :raises BadRequest: it is empty, or not in the encoding it says.
    :raises TooLarge: it is longer than it may be.
    """
    if too_large or len(content) > max_bytes:
        raise _too_large(max_bytes)
    if not content:
        raise BadRequest("No data supplied to process.")
    if content_type == TEXT:
        try:
            content.decode()
        except UnicodeDecodeError:
            raise BadRequest("The payload is not UTF-8 text; send it as application/octet-stream.") from None
        return Payload(content, content_type)
    if encoding is None:
        return Payload(content, content_type)
    if encoding.strip().lower() != "base64":
        raise BadRequest("Content-Encoding must be absent or base64.")
    try:
        return Payload(decode_base64(content), content_type)
    except ValueError:
        raise BadRequest("The payload is not base64, as Content-Encoding says.") from None


def _mismatch(reason: str, prop: str) -> SchemaMismatch:
    return SchemaMismatch(SECRET.name, reason, prop)
