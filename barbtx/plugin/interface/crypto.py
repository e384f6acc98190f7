"""The interface of crypto plugins, which encrypt and decrypt while the database keeps the ciphertext.

A crypto plugin is registered under the entry point group ``barbtx.crypto`` and enabled in ``[crypto]
enabled_crypto_plugins``. The entry point is a factory that takes a
:class:`~barbtx.plugin.manager.PluginContext` and returns a provider of :class:`ICryptoPlugin`. A crypto plugin never
accesses the database. See :mod:`barbtx.plugin.interface.optional` for optional interfaces.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs
from oslo_config.cfg import ConfigOpts
from zope.interface import Interface

from barbtx.errors import NotAvailableHere
from barbtx.model.records import KEKMeta
from barbtx.plugin.interface.domains import Domain
from barbtx.plugin.interface.results import MaybeAwaitable


class SupportType(enum.Enum):
    """The operations that a plugin may support."""

    ENCRYPT_DECRYPT = "encrypt and decrypt"
    SYMMETRIC_KEY_GENERATION = "generate symmetric keys"
    ASYMMETRIC_KEY_GENERATION = "generate asymmetric keys"


@attrs.frozen
class EncryptDTO:
    """Bytes to encrypt.

    :ivar secret_id: id of the secret or, in the domain of passphrases, of the order.
    """

    unencrypted: bytes = attrs.field(repr=False)
    secret_id: str
    domain: Domain = Domain.PAYLOAD


@attrs.frozen
class DecryptDTO:
    """The result of :meth:`ICryptoPlugin.encrypt` for a secret or an order."""

    encrypted: bytes = attrs.field(repr=False)
    secret_id: str
    kek_meta_extended: str | None = None
    domain: Domain = Domain.PAYLOAD


@attrs.frozen
class GenerateDTO:
    """A symmetric key to generate; ``bit_length`` is in bits."""

    algorithm: str
    bit_length: int
    mode: str | None
    secret_id: str


@attrs.frozen
class GeneratePairDTO:
    """A key pair to generate, and the ids of the secrets for its parts and for the passphrase of the private part."""

    algorithm: str
    bit_length: int
    passphrase: str | None = attrs.field(repr=False)
    private_id: str
    public_id: str
    passphrase_id: str


@attrs.frozen
class ResponseDTO:
    """Ciphertext, and a text of the plugin's own that is stored with it."""

    cypher_text: bytes = attrs.field(repr=False)
    kek_meta_extended: str | None = None


class ICryptoPlugin(Interface):
    """Encryption under keys that only the plugin can unwrap.

    Methods whose result is ``MaybeAwaitable`` may be coroutines, or return a Deferred or a plain value.

    A plugin must bind a ciphertext to its secret, project and domain, so that it decrypts for no other. It must
    raise the same exception for every kind of corruption. It must not block the reactor. It must never
    write plaintext or keys to the log or into an exception. If it lacks, or cannot reach, the master key that wraps a
    project key, it raises :class:`MasterKeyUnavailable`: nothing is corrupt, and another process may have the key.
    """

    def get_plugin_name() -> str:
        """Return a friendly name, unique in the deployment."""

    def supports(
        type_enum: SupportType, algorithm: str | None = None, bit_length: int | None = None, mode: str | None = None
    ) -> bool:
        """Return whether the plugin supports an operation; names compare without regard to case."""

    def bind_kek_metadata(kek_meta: KEKMeta, project_id: str) -> MaybeAwaitable[KEKMeta]:
        """Generate a project key (KEK) and return the record with the wrapped key in ``plugin_meta``.

        A record that already has a key is returned unchanged. A plugin whose master keys wrap the keys of many projects
        puts the id of the one that it used into ``master_key_id`` (at most 255 characters, not secret), so that a
        startup can detect a missing master key.
        """

    def check_kek(kek_meta: KEKMeta, project_id: str) -> MaybeAwaitable[None]:
        """Check that the plugin can unwrap a project key.

        :raises MasterKeyUnavailable: its master key is missing.
        :raises DecryptionFailed: it is not intact.
        """

    def encrypt(dto: EncryptDTO, kek_meta: KEKMeta, project_id: str) -> MaybeAwaitable[ResponseDTO]:
        """Encrypt under a project key.

        :raises MasterKeyUnavailable: the master key that wraps the project key is missing.
        """

    def decrypt(dto: DecryptDTO, kek_meta: KEKMeta, project_id: str) -> MaybeAwaitable[bytes]:
        """Decrypt a ciphertext that was encrypted for this secret of this project in this domain.

        :raises DecryptionFailed: the ciphertext is not intact, or was encrypted for something else.
        :raises MasterKeyUnavailable: the master key that wraps the project key is missing.
        """

    def generate_symmetric(dto: GenerateDTO, kek_meta: KEKMeta, project_id: str) -> MaybeAwaitable[ResponseDTO]:
        """Generate a key and encrypt it under a project key."""

    def generate_asymmetric(
        dto: GeneratePairDTO, kek_meta: KEKMeta, project_id: str
    ) -> MaybeAwaitable[tuple[ResponseDTO, ResponseDTO, ResponseDTO | None]]:
        """Generate a key pair and encrypt its private part, its public part and, if there is one, the passphrase."""


class IMasterKeys(Interface):
    """An optional interface of crypto plugins that can read their master keys again."""

    def current_master_key_id() -> str:
        """Return the id of the master key that wraps new project keys."""

    def master_key_ids() -> Sequence[str]:
        """Return the ids of all master keys, the one that wraps new project keys first."""

    def reload_keys(conf: ConfigOpts) -> ICryptoPlugin:
        """Return a plugin of the same class with the master keys that are configured now. May block.

        The plugin whose method is called does not change.

        :param conf: the configuration as it is now.
        :raises ConfigurationError: the keys cannot be read.
        """


class MasterKeyUnavailable(NotAvailableHere):
    """The master key that wraps a project key is missing; the stored data is intact.

    :ivar key_id: id of the master key; not secret.
    """

    def __init__(self, key_id: str) -> None:
        super().__init__(
            "A key that is needed for this is not available at the moment; please try again", key_id=key_id
        )
        self.key_id = key_id


class DecryptionFailed(Exception):
    """The ciphertext is corrupt, belongs to another secret or is under another key; it is not disclosed which."""
