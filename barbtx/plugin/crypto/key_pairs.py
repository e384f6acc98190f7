"""Generating key pairs in software.

RSA keys are PEM: PKCS#8 (RFC 5958) and SubjectPublicKeyInfo (RFC 5280). DSA keys are the same structures in DER.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

PAIR_ALGORITHMS = frozenset({"rsa", "dsa"})
PAIR_BITS = frozenset({1024, 2048, 4096})
_PUBLIC_EXPONENT = 65537


def generate_pair(algorithm: str, bit_length: int, passphrase: str | None) -> tuple[bytes, bytes]:
    """Generate a key pair. Takes seconds, so call it in a thread.

    :param algorithm: "rsa" or "dsa", in any case.
    :param bit_length: in bits.
    :param passphrase: encrypts the private part, unless it is None or empty.
    :return: the private and the public part.
    """
    key: rsa.RSAPrivateKey | dsa.DSAPrivateKey
    if algorithm.lower() == "rsa":
        key, encoding = rsa.generate_private_key(_PUBLIC_EXPONENT, bit_length), Encoding.PEM
    else:
        key, encoding = dsa.generate_private_key(bit_length), Encoding.DER
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return (
        key.private_bytes(encoding, PrivateFormat.PKCS8, encryption),
        key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo),
    )
