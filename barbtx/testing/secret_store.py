"""A secret store that keeps payloads in memory."""

from __future__ import annotations

import os
import uuid

import attrs
from zope.interface import implementer

from barbtx.errors import NotSupported, ServiceUnavailable
from barbtx.plugin.crypto.key_pairs import PAIR_ALGORITHMS, PAIR_BITS, generate_pair
from barbtx.plugin.interface.domains import Domain
from barbtx.plugin.interface.secret_store import (
    SYMMETRIC_ALGORITHMS,
    ISecretStore,
    KeyPairReceipt,
    KeySpec,
    PairIds,
    SecretDTO,
    StorageReceipt,
    Wrapping,
)
from barbtx.plugin.manager import PluginContext


@attrs.frozen
class _Stored:
    secret_id: str
    project_id: str
    domain: Domain
    payload: bytes = attrs.field(repr=False)


@implementer(ISecretStore)
@attrs.define(eq=False)
class MemoryStore:
    """Keeps payloads, unencrypted, until the process ends.

    Key pairs are generated without a thread, so generating one blocks the reactor.

    :ivar name: friendly name.
    :ivar unavailable: whether every operation fails as if the store were unreachable; a test may set it at any time.
    """

    name: str = "Memory store"
    unavailable: bool = False
    _stored: dict[str, _Stored] = attrs.field(factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        """Return the number of payloads."""
        return len(self._stored)

    def get_plugin_name(self) -> str:
        """Return the configured name."""
        return self.name

    def store_secret_supports(self, key_spec: KeySpec) -> bool:
        """Return True: every secret can be stored."""
        return True

    def generate_supports(self, key_spec: KeySpec) -> bool:
        """Return whether the key is symmetric, or an RSA or DSA key pair."""
        return (key_spec.alg or "").lower() in SYMMETRIC_ALGORITHMS | PAIR_ALGORITHMS

    async def get_transport_key(self) -> None:
        """Return None: the store does not unwrap payloads."""

    async def store_secret(self, secret: SecretDTO) -> StorageReceipt:
        """Keep a payload.

        :raises ServiceUnavailable: the store is told to be unreachable; so do all other operations.
        """
        return self._add(secret.secret_id, secret.project_id, secret.domain, secret.secret)

    async def get_secret(
        self, secret_id: str, project_id: str, receipt: StorageReceipt, wrapping: Wrapping | None = None
    ) -> bytes:
        """Return a payload.

        :raises LookupError: there is none for this receipt, secret, project and domain.
        """
        self._check_available()
        stored = self._stored[receipt.metadata["key_id"]]
        if (stored.secret_id, stored.project_id, stored.domain) != (secret_id, project_id, receipt.domain):
            raise LookupError("the payload belongs to another secret")
        return stored.payload

    async def delete_secret(self, receipt: StorageReceipt) -> None:
        """Delete a payload, if it exists."""
        self._check_available()
        self._stored.pop(receipt.metadata["key_id"], None)

    async def generate_symmetric_key(self, secret_id: str, project_id: str, key_spec: KeySpec) -> StorageReceipt:
        """Generate random bytes and keep them.

        :raises NotSupported: the length is missing or not a multiple of 8 bits, or the key is not symmetric.
        """
        if (
            (key_spec.alg or "").lower() not in SYMMETRIC_ALGORITHMS
            or not key_spec.bit_length
            or key_spec.bit_length % 8
        ):
            raise NotSupported(f"The memory store does not generate {key_spec.alg} keys of {key_spec.bit_length} bits")
        return self._add(secret_id, project_id, Domain.PAYLOAD, os.urandom(key_spec.bit_length // 8))

    async def generate_asymmetric_key(self, ids: PairIds, project_id: str, key_spec: KeySpec) -> KeyPairReceipt:
        """Generate a key pair and keep its parts.

        :raises NotSupported: it is not an RSA or DSA key pair of a supported length.
        """
        if (key_spec.alg or "").lower() not in PAIR_ALGORITHMS or key_spec.bit_length not in PAIR_BITS:
            raise NotSupported(f"The memory store does not generate {key_spec.alg} pairs of {key_spec.bit_length} bits")
        private, public = generate_pair(key_spec.alg or "", key_spec.bit_length or 0, key_spec.passphrase)
        passphrase = None
        if key_spec.passphrase:
            passphrase = self._add(ids.passphrase, project_id, Domain.PAYLOAD, key_spec.passphrase.encode())
        return KeyPairReceipt(
            self._add(ids.private, project_id, Domain.PAYLOAD, private),
            self._add(ids.public, project_id, Domain.PAYLOAD, public),
            passphrase,
        )

    def _add(self, secret_id: str, project_id: str, domain: Domain, payload: bytes) -> StorageReceipt:
        self._check_available()
        key_id = str(uuid.uuid4())
        self._stored[key_id] = _Stored(secret_id, project_id, domain, payload)
        return StorageReceipt({"key_id": key_id})

    def _check_available(self) -> None:
        if self.unavailable:
            raise ServiceUnavailable("The memory store is unreachable.")


def from_config(context: PluginContext) -> MemoryStore:
    """Make the store; for entry points of the group ``barbtx.secretstore`` in test distributions."""
    return MemoryStore()
