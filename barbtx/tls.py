"""TLS for client connections: trusted authorities and the client certificate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.x509 import load_pem_x509_certificates
from OpenSSL.crypto import FILETYPE_PEM, X509
from OpenSSL.crypto import Error as PEMError
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


def client_tls(section: str, cafile: str | None, certfile: str | None, keyfile: str | None) -> Callable[[str], Any]:
    """Return a function that makes the TLS options for a connection to a host; it always verifies the host name.

    :param section: the configuration section, for error messages.
    :param cafile: PEM file with the trusted authorities; None for those of the system.
    :param certfile: PEM file with the client certificate; None to present no certificate.
    :param keyfile: PEM file with the private key of the certificate; None if it is in ``certfile``.
    :raises ConfigurationError: a file is missing, can be written by others, or does not have the expected content.
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
    return [Certificate(X509.from_cryptography(certificate)) for certificate in load_pem_x509_certificates(pem)]


def _read(section: str, option: str, path: str, parse: Callable[[bytes], Any]) -> Any:
    try:
        problems = write_problems(path)
        if option == "keyfile" and others_may_read(path):
            log.warn(
                "[{section}] {option} {path}: other users can read this private key; run chmod o-rwx on it",
                section=section,
                option=option,
                path=path,
            )
        with open(path, "rb") as file:
            parsed = parse(file.read())
    except (OSError, ValueError, PEMError) as problem:
        reason = getattr(problem, "strerror", None) or "not a PEM file with the expected content"
        raise ConfigurationError(f"[{section}] {option} {path}: {reason}") from None
    if problems:
        raise ConfigurationError(*(f"[{section}] {option} {problem}" for problem in problems))
    return parsed
