"""The interface of secret stores, which keep payloads and generate keys.

A store is registered under the entry point group ``barbtx.secretstore`` and enabled in ``[secretstore]
enabled_secretstore_plugins``. The entry point is a factory that takes a
:class:`~barbtx.plugin.manager.PluginContext` and returns a provider of :class:`ISecretStore`. A store never sees HTTP
requests. See :mod:`barbtx.plugin.interface.optional` for optional interfaces.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from zope.interface import Interface

from barbtx.model.records import EncryptedDatum
from barbtx.plugin.interface.domains import Domain
from barbtx.plugin.interface.results import MaybeAwaitable

SYMMETRIC_ALGORITHMS = frozenset({"aes", "des", "desede", "hmacsha1", "hmacsha256", "hmacsha384", "hmacsha512"})
ASYMMETRIC_ALGORITHMS = frozenset({"diffie_hellman", "dsa", "rsa", "ec"})


@attrs.frozen
class KeySpec:
    """A kind of key.

    :ivar alg: the algorithm; like ``mode``, compared without regard to case.
    :ivar bit_length: in bits.
    :ivar passphrase: encrypts the private part of a key pair.
    """

    alg: str | None = None
    bit_length: int | None = None
    mode: str | None = None
    passphrase: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class SecretDTO:
    """A payload to store, and the object that it belongs to.

    :ivar secret_id: id of the secret or, in the domain of passphrases, of the order.
    :ivar project_id: external id.
    :ivar secret: the payload's bytes.
    :ivar transport_key: the transport key that the client wrapped the payload for, always one that the store gave out;
        None if the payload is not wrapped.
    :ivar domain: the kind of plaintext.
    """

    secret_id: str
    project_id: str
    type: str
    secret: bytes = attrs.field(repr=False)
    key_spec: KeySpec = KeySpec()
    content_type: str = "application/octet-stream"
    transport_key: str | None = None
    domain: Domain = Domain.PAYLOAD


@attrs.frozen
class StorageReceipt:
    """A store's receipt for a stored payload, with which the payload is read or deleted later.

    :ivar metadata: data of the store's own; values of at most 255 characters, nothing secret.
    :ivar datum: the ciphertext, if the store leaves it to the database. barbtx writes it in the transaction that writes
        the secret's row, so that neither ever exists without the other.
    :ivar domain: on reading, the kind of plaintext that the caller expects. A store need not set it.
    """

    metadata: Mapping[str, str] = attrs.field(factory=dict)
    datum: EncryptedDatum | None = None
    domain: Domain = Domain.PAYLOAD


@attrs.frozen
class Wrapping:
    """How a client wants a payload wrapped: with a session key, which is itself wrapped for a transport key."""

    session_key: str
    transport_key: str


@attrs.frozen
class PairIds:
    """The ids of the secrets that will hold the parts of a key pair and its passphrase."""

    private: str
    public: str
    passphrase: str


@attrs.frozen
class KeyPairReceipt:
    """Receipts for the parts of a key pair and, if there is one, its passphrase."""

    private: StorageReceipt
    public: StorageReceipt
    passphrase: StorageReceipt | None = None


class ISecretStore(Interface):
    """A place for payloads.

    Methods whose result is ``MaybeAwaitable`` may be coroutines, or return a Deferred or a plain value.

    A store must either keep a payload or raise an exception. It must not block the reactor. It must never write
    a payload or a key to the log or into an exception. While it is briefly unreachable it may raise
    :class:`barbtx.errors.ServiceUnavailable`: clients are then told to retry, and orders are retried later.
    """

    def get_plugin_name() -> str:
        """Return a friendly name, unique in the deployment."""

    def store_secret_supports(key_spec: KeySpec) -> bool:
        """Return whether the store can keep such a secret; must be true when algorithm and length are None."""

    def generate_supports(key_spec: KeySpec) -> bool:
        """Return whether the store can generate such a key."""

    def store_secret(secret: SecretDTO) -> MaybeAwaitable[StorageReceipt]:
        """Store a payload.

        The method may be called several times for one secret, even concurrently, when clients send payloads for it.
        Each call stores a separate payload and returns a separate receipt: a later call must not replace the
        payload of an earlier one, and deleting by one receipt must not delete the payload of another.
        """

    def get_secret(
        secret_id: str, project_id: str, receipt: StorageReceipt, wrapping: Wrapping | None = None
    ) -> MaybeAwaitable[bytes]:
        """Return a payload.

        :param wrapping: how to wrap the payload; passed only to a store that has a transport key.
        :raises Exception: the payload is missing, or was not stored for this secret, project and domain.
        """

    def delete_secret(receipt: StorageReceipt) -> MaybeAwaitable[None]:
        """Delete a payload that the store keeps itself; do nothing if it is already gone."""

    def generate_symmetric_key(secret_id: str, project_id: str, key_spec: KeySpec) -> MaybeAwaitable[StorageReceipt]:
        """Generate a symmetric key and store it."""

    def generate_asymmetric_key(ids: PairIds, project_id: str, key_spec: KeySpec) -> MaybeAwaitable[KeyPairReceipt]:
        """Generate a key pair and store its parts; the passphrase, if there is one, encrypts the private part."""

    def get_transport_key() -> MaybeAwaitable[str | None]:
        """Return the certificate (base64 of X.509) for which clients may wrap payloads; None if there is none.

        A store that changes its key must still unwrap payloads that were wrapped for an earlier one.
        """
