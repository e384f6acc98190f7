"""TLS as a client: whom to believe, and what to show for oneself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL.crypto import Error as PEMError
from OpenSSL.SSL import FILETYPE_PEM
from twisted.internet.ssl import (
    Certificate,
    KeyPair,
    PrivateCertificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.logger import Logger

from barbtx.errors import ConfigurationError
from barbtx.files import others_may_read, write_problems

log = Logger()

_BEGIN = b"-----BEGIN CERTIFICATE-----"


def client_tls(section: str, cafile: str | None, certfile: str | None, keyfile: str | None) -> Callable[[str], Any]:
    """What makes the TLS options for connecting to a host; its name is always checked against its certificate.

    :param section: the configuration section, for error texts.
    :param cafile: PEM file with the authorities to believe; None for the system's.
    :param certfile: PEM file with our own certificate, if the other side asks for one.
    :param keyfile: PEM file with its key; None if that is in ``certfile``.
    :raises ConfigurationError: a file is missing, can be written by others, or is not what it should be.
    """
    trust, own = platformTrust(), None
    if cafile:
        trust = trustRootFromCertificates(_read(section, "cafile", cafile, _authorities))
    if certfile:
        certificate = _read(section, "certfile", certfile, Certificate.loadPEM)
        key = _read(section, "keyfile", keyfile or certfile, lambda pem: KeyPair.load(pem, FILETYPE_PEM))
        own = PrivateCertificate.fromCertificateAndKeyPair(certificate, key)
    return lambda host: optionsForClientTLS(host, trustRoot=trust, clientCertificate=own)


def _authorities(pem: bytes) -> list[Certificate]:
    blocks = pem.split(_BEGIN)[1:]
    if not blocks:
        raise ValueError("there is no certificate in it")
    return [Certificate.loadPEM(_BEGIN + block) for block in blocks]


def _read(section: str, option: str, path: str, parse: Callable[[bytes], Any]) -> Any:
    try:
        problems = write_problems(path)
        if option == "keyfile" and others_may_read(path):
            log.warn(
                "[{section}] {option} {path}: others may read the key in it; chmod o-rwx it",
                section=section,
                option=option,
                path=path,
            )
        with open(path, "rb") as file:
            parsed = parse(file.read())
    except (OSError, ValueError, PEMError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not a PEM file of the right kind"
        raise ConfigurationError(f"[{section}] {option} {path}: {reason}") from None
    if problems:
        raise ConfigurationError(*(f"[{section}] {option} {problem}" for problem in problems))
    return parsed
