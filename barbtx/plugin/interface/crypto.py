"""What a crypto plugin is: it encrypts and decrypts, and the database keeps the ciphertext.

A crypto plugin is found through the entry point group ``barbtx.crypto`` and named in ``[crypto]
enabled_crypto_plugins``. The entry point is a factory that takes a
:class:`~barbtx.plugin.manager.PluginContext` and returns a provider of :class:`ICryptoPlugin`. A crypto plugin never
sees the database.
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


class SupportType(enum.Enum):
    """What a plugin may be able to do."""

    ENCRYPT_DECRYPT = "encrypt and decrypt"
    SYMMETRIC_KEY_GENERATION = "generate symmetric keys"
    ASYMMETRIC_KEY_GENERATION = "generate asymmetric keys"


@attrs.frozen
class EncryptDTO:
    """Bytes to be encrypted for a secret or, in the domain of passphrases, for the order whose id ``secret_id`` is."""

    unencrypted: bytes = attrs.field(repr=False)
    secret_id: str
    domain: Domain = Domain.PAYLOAD


@attrs.frozen
class DecryptDTO:
    """What :meth:`ICryptoPlugin.encrypt` made for a secret or an order."""

    encrypted: bytes = attrs.field(repr=False)
    secret_id: str
    kek_meta_extended: str | None = None
    domain: Domain = Domain.PAYLOAD


@attrs.frozen
class GenerateDTO:
    """A key to be made; ``bit_length`` in bits."""

    algorithm: str
    bit_length: int
    mode: str | None
    secret_id: str


@attrs.frozen
class GeneratePairDTO:
    """A key pair to be made, and the secrets that its parts, and the passphrase of the private one, are for."""

    algorithm: str
    bit_length: int
    passphrase: str | None = attrs.field(repr=False)
    private_id: str
    public_id: str
    passphrase_id: str


@attrs.frozen
class ResponseDTO:
    """Ciphertext, and a text of the plugin's own that is kept with it."""

    cypher_text: bytes = attrs.field(repr=False)
    kek_meta_extended: str | None = None


class ICryptoPlugin(Interface):
    """Encryption under keys that only the plugin can unwrap. Every method but ``supports`` may return a Deferred.

    A plugin must bind a ciphertext to its secret, project and domain, so that it does not decrypt as another's or as
    something else; must fail, with one and the same exception, on anything that is not intact; must not block the
    reactor; must never log, or put into an exception, plaintext or keys. If it has not, or cannot reach, the master key
    that a project's key is wrapped with, it raises :class:`MasterKeyUnavailable`: that is no corruption, and another
    process may well have the key. It may provide
    :class:`~barbtx.plugin.interface.key_derivation.IKeyDerivation` too.
    """

    def get_plugin_name() -> str:
        """A friendly name, unique in the deployment."""

    def supports(
        type_enum: SupportType, algorithm: str | None = None, bit_length: int | None = None, mode: str | None = None
    ) -> bool:
        """Whether it can do something; the names compare without regard to case."""

    def bind_kek_metadata(kek_meta: KEKMeta, project_id: str) -> KEKMeta:
        """Make a key for a project and return the record with it, wrapped, in ``plugin_meta``; once bound, as it is.

        A plugin whose master keys wrap the keys of many projects names the one that it used in ``master_key_id``
        (at most 255 characters, not secret), so that a start can make sure that none is missing.
        """

    def check_kek(kek_meta: KEKMeta, project_id: str) -> None:
        """Raise if the plugin cannot unwrap a project's key.

        :raises MasterKeyUnavailable: its master key is missing.
        :raises DecryptionFailed: it is not intact.
        """

    def encrypt(dto: EncryptDTO, kek_meta: KEKMeta, project_id: str) -> ResponseDTO:
        """Encrypt under a project's key."""

    def decrypt(dto: DecryptDTO, kek_meta: KEKMeta, project_id: str) -> bytes:
        """Decrypt what was encrypted for this secret of this project in this domain.

        :raises DecryptionFailed: it is anything else.
        :raises MasterKeyUnavailable: the master key that wraps the project's key is missing.
        """

    def generate_symmetric(dto: GenerateDTO, kek_meta: KEKMeta, project_id: str) -> ResponseDTO:
        """Make a key and encrypt it under a project's key."""

    def generate_asymmetric(
        dto: GeneratePairDTO, kek_meta: KEKMeta, project_id: str
    ) -> tuple[ResponseDTO, ResponseDTO, ResponseDTO | None]:
        """Make a key pair and encrypt its private and its public part, and the passphrase if there is one."""


class IMasterKeys(Interface):
    """What a crypto plugin may provide beside :class:`ICryptoPlugin`, if it can read its master keys again."""

    def current_master_key_id() -> str:
        """The id of the master key that wraps new project keys."""

    def master_key_ids() -> Sequence[str]:
        """The ids of all master keys, the one that wraps new project keys first."""

    def reload_keys(conf: ConfigOpts) -> ICryptoPlugin:
        """A plugin of the same class with the master keys that there are now; this one stays as it is. It may block.

        :param conf: the configuration as it is now.
        :raises ConfigurationError: they cannot be read.
        """


class MasterKeyUnavailable(NotAvailableHere):
    """The master key that wraps a project's key is not there; nothing is wrong with what is stored.

    :ivar key_id: names the master key; not secret.
    """

    def __init__(self, key_id: str) -> None:
        super().__init__(
            "A key that is needed for this is not available at the moment; please try again", key_id=key_id
        )
        self.key_id = key_id


class DecryptionFailed(Exception):
    """The ciphertext is not intact, not this secret's or not under this key; it does not say which."""
