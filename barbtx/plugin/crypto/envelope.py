"""Sealed envelopes: AES-256-GCM (NIST SP 800-38D) with the id of the key that opens them.

::

    version   1 byte, 2
    key id   16 bytes
    nonce    12 bytes, random
    sealed   ciphertext and its 16-byte tag

Everything before ``sealed`` and the caller's context are authenticated as associated data. The context is a list of
texts, each encoded with its length, so that no two contexts have the same encoding. The first text is the domain, the
kind of plaintext.

Version 1 has the same layout, but its contexts had no separate domain for the passphrases of orders, which were sealed
as payloads. Migration 0004 replaced the version byte of the passphrases that it found with
:data:`PASSPHRASE_VERSION_1`. That byte is not authenticated: it prevents a passphrase that was moved to a payload's row
from being opened there, but not if the version byte is changed back as well.

With random nonces a key must not seal more than 2**32 times (SP 800-38D, 8.3).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from barbtx.plugin.interface.crypto import DecryptionFailed

VERSION = 2
VERSION_1 = 1
#: The version byte of a version 1 envelope that holds the passphrase of an order.
PASSPHRASE_VERSION_1 = 0x81
KEY_BYTES = 32
KEY_ID_BYTES = 16
_NONCE_BYTES = 12
_HEADER_BYTES = 1 + KEY_ID_BYTES
_TAG_BYTES = 16


def seal(key: AESGCM, key_id: bytes, plaintext: bytes, context: Sequence[str]) -> bytes:
    """Encrypt a plaintext into an envelope.

    :param key_id: 16 bytes that identify the key.
    :param context: the domain of the plaintext and the object that it belongs to; opening requires the same context.
    """
    header = bytes([VERSION]) + key_id
    nonce = os.urandom(_NONCE_BYTES)
    return header + nonce + key.encrypt(nonce, plaintext, _associated(header, context))


def open_sealed(
    key: AESGCM,
    key_id: bytes,
    sealed: bytes,
    context: Sequence[str],
    earlier: Mapping[int, Sequence[str]] = MappingProxyType({}),
) -> bytes:
    """Decrypt an envelope that :func:`seal` returned.

    :param earlier: contexts for envelopes of other versions, by version byte. Envelopes of any other version than these
        and the current one are refused.
    :raises DecryptionFailed: the envelope is corrupt, or was sealed with another key or in another context.
    """
    if len(sealed) < _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES or sealed[1:_HEADER_BYTES] != key_id:
        raise DecryptionFailed
    version = sealed[0]
    if version != VERSION:
        if version not in earlier:
            raise DecryptionFailed
        version, context = VERSION_1, earlier[version]
    nonce = sealed[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
    try:
        return key.decrypt(
            nonce, sealed[_HEADER_BYTES + _NONCE_BYTES :], _associated(bytes([version]) + key_id, context)
        )
    except InvalidTag:
        raise DecryptionFailed from None


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the key that opens an envelope.

    :raises DecryptionFailed: it is not an envelope of a known version.
    """
    if len(sealed) < _HEADER_BYTES or sealed[0] not in (VERSION, VERSION_1, PASSPHRASE_VERSION_1):
        raise DecryptionFailed
    return sealed[1:_HEADER_BYTES]


def _associated(header: bytes, context: Sequence[str]) -> bytes:
    parts = [header]
    for text in context:
        encoded = text.encode()
        parts += [struct.pack(">I", len(encoded)), encoded]
    return b"".join(parts)
