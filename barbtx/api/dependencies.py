"""What the API works with; made once, at startup, and handed to everything through its constructor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from oslo_config import cfg

from barbtx.api.fingerprints import Fingerprints
from barbtx.api.order_watch import OrderWatch
from barbtx.identity.policy import Policy
from barbtx.model.repositories.registry import Repositories
from barbtx.plugin.manager import StoreManager
from barbtx.queue.client import TaskClient
from barbtx.times import Clock


@attrs.frozen
class Dependencies:
    """The collaborators of controllers and middleware.

    :ivar gauges: what the status report shows of parts that are made later; they add themselves, by name.
    """

    conf: cfg.ConfigOpts
    reactor: Any
    clock: Clock
    policy: Policy
    repositories: Repositories
    stores: StoreManager
    task_client: TaskClient
    order_watch: OrderWatch
    fingerprints: Fingerprints = attrs.field(init=False)
    gauges: dict[str, Callable[[], Mapping[str, object]]] = attrs.field(factory=dict, init=False, repr=False)

    @fingerprints.default
    def _fingerprints(self) -> Fingerprints:
        return Fingerprints.from_config(self.conf, self.stores)
