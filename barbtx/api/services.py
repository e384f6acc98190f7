"""What the API works with; made once, at start, and handed to everything through its constructor."""

from __future__ import annotations

import attrs
from oslo_config import cfg
from twisted.internet.interfaces import IReactorTime

from barbtx.identity.policy import Policy
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.plugin.manager import StoreManager
from barbtx.queue.client import TaskClient


@attrs.frozen
class Services:
    conf: cfg.ConfigOpts
    clock: IReactorTime
    policy: Policy
    secrets: SecretRepo
    orders: OrderRepo
    stores: StoreManager
    task_client: TaskClient
