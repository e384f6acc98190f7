"""How bytes are sealed: AES-256-GCM (NIST SP 800-38D) in an envelope that says which key it needs.

::

    version   1 byte, 1
    key id   16 bytes
    nonce    12 bytes, random
    sealed   ciphertext and its 16-byte tag

Everything before ``sealed`` and the caller's context are authenticated with it. The context is a list of texts; each
goes in with its length, so that no two contexts look alike.

With random nonces a key must not seal more than 2**32 times (SP 800-38D, 8.3).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from barbtx.plugin.interface.crypto import DecryptionFailed

VERSION = 1
KEY_BYTES = 32
KEY_ID_BYTES = 16
_NONCE_BYTES = 12
_HEADER_BYTES = 1 + KEY_ID_BYTES
_TAG_BYTES = 16


def seal(key: AESGCM, key_id: bytes, plaintext: bytes, context: Sequence[str]) -> bytes:
    """Encrypt.

    :param key_id: 16 bytes that name the key.
    :param context: what the plaintext belongs to; must be the same to open it.
    """
    header = bytes([VERSION]) + key_id
    nonce = os.urandom(_NONCE_BYTES)
    return header + nonce + key.encrypt(nonce, plaintext, _associated(header, context))


def open_sealed(key: AESGCM, key_id: bytes, sealed: bytes, context: Sequence[str]) -> bytes:
    """Decrypt what :func:`seal` made.

    :raises DecryptionFailed: it is not intact, or not under this key, or not in this context.
    """
    header, nonce = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES:_HEADER_BYTES + _NONCE_BYTES]
    if len(sealed) < _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES or header != bytes([VERSION]) + key_id:
        raise DecryptionFailed
    try:
        return key.decrypt(nonce, sealed[_HEADER_BYTES + _NONCE_BYTES:], _associated(header, context))
    except InvalidTag:
        raise DecryptionFailed from None


def key_id_of(sealed: bytes) -> bytes:
    """The id of the key that an envelope needs.

    :raises DecryptionFailed: it is no envelope of a known version.
    """
    if len(sealed) < _HEADER_BYTES or sealed[0] != VERSION:
        raise DecryptionFailed
    return sealed[1:_HEADER_BYTES]


def _associated(header: bytes, context: Sequence[str]) -> bytes:
    parts = [header]
    for text in context:
        encoded = text.encode()
        parts += [struct.pack(">I", len(encoded)), encoded]
    return b"".join(parts)
