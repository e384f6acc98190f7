"""What a secret store is: the place where payloads are kept and keys are made.

A store is found through the entry point group ``barbtx.secretstore`` and named in ``[secretstore]
enabled_secretstore_plugins``. The entry point is a factory that takes a
:class:`~barbtx.plugin.manager.PluginContext` and returns a provider of :class:`ISecretStore`. A store never sees HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from zope.interface import Interface

from barbtx.model.records import EncryptedDatum
from barbtx.plugin.interface.domains import Domain

SYMMETRIC_ALGORITHMS = frozenset({"aes", "des", "desede", "hmacsha1", "hmacsha256", "hmacsha384", "hmacsha512"})
ASYMMETRIC_ALGORITHMS = frozenset({"diffie_hellman", "dsa", "rsa", "ec"})


@attrs.frozen
class KeySpec:
    """A kind of key. ``bit_length`` in bits; names compare without regard to case."""

    alg: str | None = None
    bit_length: int | None = None
    mode: str | None = None
    passphrase: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class SecretDTO:
    """A payload and what it belongs to.

    :ivar secret_id: of the secret or, in the domain of passphrases, of the order.
    :ivar secret: the payload's bytes.
    :ivar project_id: external id.
    :ivar transport_key: what the client wrapped the payload for; only ever one that the store has given out.
    :ivar domain: what kind of plaintext it is.
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
    """A store's receipt for a payload.

    :ivar metadata: what the store wants to be given again on reading and deleting; values of at most 255 characters,
        nothing secret.
    :ivar datum: the ciphertext, if the store leaves it to the database. It is written in the same transaction as the
        secret it belongs to, so that neither is ever there without the other.
    :ivar domain: on reading, the kind of plaintext that is wanted. A store need not set it.
    """

    metadata: Mapping[str, str] = attrs.field(factory=dict)
    datum: EncryptedDatum | None = None
    domain: Domain = Domain.PAYLOAD


@attrs.frozen
class Wrapping:
    """How a client wants a payload wrapped: a session key, itself wrapped for a transport key of the store."""

    session_key: str
    transport_key: str


@attrs.frozen
class PairIds:
    """The ids of the secrets that the parts of a key pair will be."""

    private: str
    public: str
    passphrase: str


@attrs.frozen
class KeyPairReceipt:
    """Receipts for a key pair and, if there is one, its passphrase."""

    private: StorageReceipt
    public: StorageReceipt
    passphrase: StorageReceipt | None = None


class ISecretStore(Interface):
    """A place for payloads. Every method but the two questions may return a Deferred.

    A store must either keep what it is given or raise; it must not block the reactor; it must never log, or put into
    an exception, a payload or a key. It may provide :class:`~barbtx.plugin.interface.key_derivation.IKeyDerivation`
    too. It may raise :class:`barbtx.errors.ServiceUnavailable` when it is briefly out of
    reach: the client is then told to try again, and an order is tried again later.
    """

    def get_plugin_name() -> str:
        """A friendly name, unique in the deployment."""

    def store_secret_supports(key_spec: KeySpec) -> bool:
        """Whether it can store such a thing; must be true when algorithm and length are None."""

    def generate_supports(key_spec: KeySpec) -> bool:
        """Whether it can make such a key."""

    def store_secret(secret: SecretDTO) -> StorageReceipt:
        """Keep a payload.

        It may be called several times for one secret, even concurrently, when clients send payloads for it. Each call
        keeps a payload of its own and returns a receipt of its own: a later call must not replace what an earlier one
        kept, and a payload that is deleted by its receipt must not take another with it.
        """

    def get_secret(secret_id: str, project_id: str, kept: StorageReceipt, wrapping: Wrapping | None = None) -> bytes:
        """Give back a payload.

        :param wrapping: how to wrap it; only ever given to a store that has a transport key.
        :raises Exception: it is not there, or is not what was stored for this secret of this project in this domain.
        """

    def delete_secret(kept: StorageReceipt) -> None:
        """Forget a payload that the store keeps itself; one that is not there any more is no error."""

    def generate_symmetric_key(secret_id: str, project_id: str, key_spec: KeySpec) -> StorageReceipt:
        """Make a key and keep it."""

    def generate_asymmetric_key(ids: PairIds, project_id: str, key_spec: KeySpec) -> KeyPairReceipt:
        """Make a key pair and keep it, the private part encrypted with the passphrase if there is one."""

    def get_transport_key() -> str | None:
        """A certificate, base64 of X.509, for which clients may wrap payloads; None if the store cannot unwrap any.

        A store that changes its key keeps unwrapping what was wrapped for an older one.
        """
