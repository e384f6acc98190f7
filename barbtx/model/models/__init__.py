"""The tables, as SQLAlchemy models.

Models stay inside :mod:`barbtx.model`; repositories return the frozen records of :mod:`barbtx.model.records`. There is
no soft deletion: a deleted row is gone, and a secret's ciphertext is deleted in the same transaction as the secret.
"""

from __future__ import annotations

from barbtx.model.models.acls import Acl, AclUser
from barbtx.model.models.base import Base
from barbtx.model.models.consumers import ContainerConsumer, SecretConsumer
from barbtx.model.models.containers import Container, ContainerSecret
from barbtx.model.models.idempotency import IdempotencyKey
from barbtx.model.models.keys import KEK, CryptoCanary, TransportKey
from barbtx.model.models.orders import Order, OrderPassphrase, OrderRetryTask
from barbtx.model.models.projects import Project, ProjectQuota, ProjectRemoval
from barbtx.model.models.secret_stores import ProjectSecretStore, SecretStore
from barbtx.model.models.secrets import EncryptedDatum, Secret, SecretCount, SecretCountChange, SecretUserMetadatum

__all__ = [
    "KEK",
    "Acl",
    "AclUser",
    "Base",
    "Container",
    "ContainerConsumer",
    "ContainerSecret",
    "CryptoCanary",
    "EncryptedDatum",
    "IdempotencyKey",
    "Order",
    "OrderPassphrase",
    "OrderRetryTask",
    "Project",
    "ProjectQuota",
    "ProjectRemoval",
    "ProjectSecretStore",
    "Secret",
    "SecretConsumer",
    "SecretCount",
    "SecretCountChange",
    "SecretStore",
    "SecretUserMetadatum",
    "TransportKey",
]
