"""The repositories of a process, all constructed in one place."""

from __future__ import annotations

import attrs
from oslo_config import cfg

from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.database_time import database_time
from barbtx.model.repositories.acls import AclRepo
from barbtx.model.repositories.consumers import CONTAINER_CONSUMERS, SECRET_CONSUMERS, ConsumerRepo
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.idempotency import IdempotencyRepo
from barbtx.model.repositories.keks import KEKRepo
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.pending_removals import PendingRemovalRepo
from barbtx.model.repositories.quotas import RESOURCES, QuotaRepo
from barbtx.model.repositories.secret_counts import SecretCountRepo
from barbtx.model.repositories.secret_stores import SecretStoreRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.model.repositories.transport_keys import TransportKeyRepo
from barbtx.model.repositories.user_metadata import UserMetadataRepo
from barbtx.times import Clock


@attrs.frozen
class Repositories:
    """One repository for each kind of object, on the same database and clock."""

    secrets: SecretRepo
    secret_counts: SecretCountRepo
    secret_acls: AclRepo
    secret_consumers: ConsumerRepo
    user_metadata: UserMetadataRepo
    containers: ContainerRepo
    container_acls: AclRepo
    container_consumers: ConsumerRepo
    orders: OrderRepo
    quotas: QuotaRepo
    keks: KEKRepo
    secret_stores: SecretStoreRepo
    transport_keys: TransportKeyRepo
    idempotency: IdempotencyRepo
    pending_removals: PendingRemovalRepo

    @classmethod
    def from_config(cls, database: Database, clock: Clock, conf: cfg.ConfigOpts) -> Repositories:
        """Construct every repository with the configured quotas and limits."""
        limits = ObjectLimits.from_config(conf)
        quotas = {name: getattr(conf.quotas, f"quota_{name}") for name in RESOURCES}
        removals = conf.keystone_notifications
        return cls(
            secrets=SecretRepo(database, clock, quotas["secrets"], limits),
            secret_counts=SecretCountRepo(database, clock),
            secret_acls=AclRepo(database, clock, models.Secret),
            secret_consumers=ConsumerRepo(database, clock, SECRET_CONSUMERS, quotas["consumers"], limits),
            user_metadata=UserMetadataRepo(database, clock, limits),
            containers=ContainerRepo(database, clock, quotas["containers"], limits),
            container_acls=AclRepo(database, clock, models.Container),
            container_consumers=ConsumerRepo(database, clock, CONTAINER_CONSUMERS, quotas["consumers"], limits),
            orders=OrderRepo(database, clock, task_time=database_time, quota=quotas["orders"]),
            quotas=QuotaRepo(database, clock, quotas),
            keks=KEKRepo(database, clock),
            secret_stores=SecretStoreRepo(database, clock),
            transport_keys=TransportKeyRepo(database, clock),
            idempotency=IdempotencyRepo(database, clock, conf.idempotency.life_seconds),
            pending_removals=PendingRemovalRepo(
                database,
                clock,
                conf.queue.lease_seconds,
                removals.max_attempts,
                removals.retry_seconds_max,
                removals.max_unconfirmed,
            ),
        )
