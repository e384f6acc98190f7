"""Request bodies of secrets (contract, sections 3.2 and 3.3)."""

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
#: Spellings of the text media type. Text is always UTF-8.
TEXT_SPELLINGS = (TEXT, f"{TEXT};charset=utf-8", f"{TEXT}; charset=utf-8")
#: Clients know this text. It does not repeat the value, which may be a misplaced payload.
UNSUPPORTED_TYPE = f"payload_content_type is not one of {[*TEXT_SPELLINGS, *_BINARY]}"

_WHITE_SPACE = re.compile(rb"[ \t\r\n\f\v]+")

#: Properties of both a new secret and the ``meta`` of an order.
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
    """A decoded payload and its media type without parameters."""

    content: bytes = attrs.field(repr=False)
    content_type: str


def read_expiration(document: Mapping[str, Any], now: datetime.datetime, schema: str) -> datetime.datetime | None:
    """Read the expiration of a new secret as naive UTC, with its fraction of a second; None if it does not expire.

    Secrets expire at whole seconds, so the time without its fraction must be in the future.

    :param now: naive UTC.
    :param schema: name of the schema, for the error's description.
    :raises SchemaMismatch: the time is malformed or not in the future.
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
    """Return the media type of a payload's content type, without parameters.

    :raises ValueError: payloads cannot have this content type.
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
    """Read and decode the payload of a new secret; None if the document has none.

    :param max_bytes: maximum length of the encoded payload.
    :raises SchemaMismatch: the payload is not valid, or its type or encoding is missing or does not fit.
    :raises TooLarge: the payload exceeds the maximum.
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
    """Decode base64 with padding (RFC 4648, section 4). White space is ignored.

    :raises ValueError: the text is not base64, or the result is empty.
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
    """Read and decode the payload that a PUT request adds to a secret.

    :param content: the body.
    :param too_large: whether the body exceeds the limit for all requests.
    :param content_type: media type of the payload, without parameters.
    :param encoding: the ``Content-Encoding`` header.
    :param max_bytes: maximum length of the body.
    :raises BadRequest: the body is empty, or not in the given encoding.
    :raises TooLarge: the body exceeds a limit.
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
