"""The formats of Keystone's tokens, as far as they can be recognized without its keys.

Sources: the Fernet specification; RFC 7515 and RFC 7519 for JWS. Keystone strips the padding of a Fernet token.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json

_FERNET_VERSION = 0x80
# Bytes of version, time, initialization vector and HMAC; the rest is ciphertext in whole blocks.
_FERNET_FIXED = 1 + 8 + 16 + 32
_BLOCK = 16
# Tokens live longer only where Keystone's [token] expiration is set to more than a month.
_USUAL_LIFETIME = 31 * 86400
_CLOCK_SKEW = 3600


def _decode(part: str) -> bytes:
    """Decode base64url with or without padding.

    :raises ValueError: it is not base64url.
    """
    bare = part.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None


def _fernet_time(token: str) -> float:
    data = _decode(token)
    blocks = len(data) - _FERNET_FIXED
    if blocks < _BLOCK or blocks % _BLOCK or data[0] != _FERNET_VERSION:
        raise ValueError("not Fernet")
    return int.from_bytes(data[1:9], "big")


def _jws_time(token: str) -> float:
    header, payload, signature = token.split(".")
    head, claims = json.loads(_decode(header)), json.loads(_decode(payload))
    if not _decode(signature) or not isinstance(head, dict) or "alg" not in head or not isinstance(claims, dict):
        raise ValueError("not JWS")
    issued = claims.get("iat", claims.get("exp"))
    if isinstance(issued, bool) or not isinstance(issued, int | float):
        raise ValueError("not a token of Keystone")
    return issued


def issued_at(token: str) -> float | None:
    """Return when a token claims to have been issued, in seconds since the epoch; None if neither Fernet nor JWS."""
    try:
        return _jws_time(token) if token.count(".") == 2 else _fernet_time(token)
    except (ValueError, RecursionError):
        return None


def may_be_token(token: str, own: str) -> bool:
    """Return whether Keystone may have issued a token, judging by its format.

    :param own: a token that Keystone did issue. If that is neither Fernet nor JWS, Keystone has another token provider,
        and every text may be a token.
    """
    return issued_at(own) is None or issued_at(token) is not None


def is_usual(token: str, now: float) -> bool:
    """Return whether a token claims to have been issued within the usual lifetime of tokens, or has no such claim."""
    issued = issued_at(token)
    return issued is None or now - _USUAL_LIFETIME < issued < now + _CLOCK_SKEW


def parse_expiry(text: str) -> float:
    """Parse the expiry time in a response of Keystone, into seconds since the epoch.

    :raises ValueError: it is not an ISO 8601 time.
    """
    moment = datetime.datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
