"""The forms of tokens that Keystone gives out, as far as they can be told without its keys.

Sources: the Fernet specification; RFC 7515 and RFC 7519 for JWS. Keystone strips the padding of a Fernet token.
"""

from __future__ import annotations

import base64
import binascii
import json

_FERNET_VERSION = 0x80
# Version, time, initialization vector, and HMAC around whole blocks of ciphertext.
_FERNET_FIXED = 1 + 8 + 16 + 32
_BLOCK = 16
# A token outlives this only where Keystone's [token] expiration is set to more than a month.
_USUAL_LIFE = 31 * 86400
_CLOCK_SKEW = 3600


def _decode(part: str) -> bytes:
    """:raises ValueError: it is no base64url."""
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
        raise ValueError("not one of Keystone's")
    return issued


def issued_at(token: str) -> float | None:
    """When a token says that it was made, in seconds since the epoch; None if it is neither Fernet nor JWS."""
    try:
        return _jws_time(token) if token.count(".") == 2 else _fernet_time(token)
    except (ValueError, RecursionError):
        return None


def may_be_token(token: str, own: str) -> bool:
    """Whether Keystone could have given out a token, by its form.

    :param own: a token that it did give out. If that is neither Fernet nor JWS, Keystone has another token provider,
        and nothing can be told.
    """
    return issued_at(own) is None or issued_at(token) is not None


def is_usual(token: str, now: float) -> bool:
    """Whether a token says that it was made within the usual life of tokens, or does not say when it was made."""
    issued = issued_at(token)
    return issued is None or now - _USUAL_LIFE < issued < now + _CLOCK_SKEW
