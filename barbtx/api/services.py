"""What the API works with; made once, at start, and handed to everything through its constructor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from oslo_config import cfg

from barbtx.api.fingerprints import Fingerprints
from barbtx.api.options import share
from barbtx.api.waiting import OrderWatch
from barbtx.identity.policy import Policy
from barbtx.limits import ObjectLimits
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.repositories.acls import AclRepo
from barbtx.model.repositories.consumers import CONTAINER_CONSUMERS, SECRET_CONSUMERS, ConsumerRepo
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.idempotency import IdempotencyRepo
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.quotas import QuotaRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.model.repositories.transport_keys import TransportKeyRepo
from barbtx.model.repositories.user_metadata import UserMetadataRepo
from barbtx.plugin.manager import StoreManager
from barbtx.queue.client import TaskClient
from barbtx.times import Clock


@attrs.frozen
class Services:
    """:ivar gauges: what goes on in further parts, for the report to an operator; they enter themselves."""

    conf: cfg.ConfigOpts
    reactor: Any
    clock: Clock
    policy: Policy
    database: Database
    secrets: SecretRepo
    orders: OrderRepo
    containers: ContainerRepo
    quotas: QuotaRepo
    stores: StoreManager
    task_client: TaskClient
    limits: ObjectLimits = attrs.field(init=False)
    secret_acls: AclRepo = attrs.field(init=False)
    container_acls: AclRepo = attrs.field(init=False)
    secret_consumers: ConsumerRepo = attrs.field(init=False)
    container_consumers: ConsumerRepo = attrs.field(init=False)
    user_metadata: UserMetadataRepo = attrs.field(init=False)
    transport_keys: TransportKeyRepo = attrs.field(init=False)
    idempotency: IdempotencyRepo = attrs.field(init=False)
    fingerprints: Fingerprints = attrs.field(init=False)
    watch: OrderWatch = attrs.field(init=False)
    gauges: dict[str, Callable[[], Mapping[str, object]]] = attrs.field(factory=dict, init=False, repr=False)

    @limits.default
    def _limits(self) -> ObjectLimits:
        return ObjectLimits.from_config(self.conf)

    @idempotency.default
    def _idempotency(self) -> IdempotencyRepo:
        return IdempotencyRepo(self.database, self.clock, self.conf.idempotency.life_seconds)

    @fingerprints.default
    def _fingerprints(self) -> Fingerprints:
        return Fingerprints.from_config(self.conf, self.stores)

    @watch.default
    def _watch(self) -> OrderWatch:
        api = self.conf.api
        limit = share(api.max_waiters, api.max_connections)
        return OrderWatch(self.reactor, self.clock, self.orders, limit, api.wait_poll_seconds,
                          share(api.max_waiters_per_project, limit), share(api.max_waiters_per_client, limit))

    @secret_acls.default
    def _secret_acls(self) -> AclRepo:
        return AclRepo(self.database, self.clock, models.Secret)

    @container_acls.default
    def _container_acls(self) -> AclRepo:
        return AclRepo(self.database, self.clock, models.Container)

    @secret_consumers.default
    def _secret_consumers(self) -> ConsumerRepo:
        return ConsumerRepo(self.database, self.clock, SECRET_CONSUMERS, self.conf.quotas.quota_consumers,
                            self.limits)

    @container_consumers.default
    def _container_consumers(self) -> ConsumerRepo:
        return ConsumerRepo(self.database, self.clock, CONTAINER_CONSUMERS, self.conf.quotas.quota_consumers,
                            self.limits)

    @user_metadata.default
    def _user_metadata(self) -> UserMetadataRepo:
        return UserMetadataRepo(self.database, self.clock, self.limits)

    @transport_keys.default
    def _transport_keys(self) -> TransportKeyRepo:
        return TransportKeyRepo(self.database, self.clock)
