"""The collaborators of pipeline steps and controllers, which are made once at startup and passed to constructors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from oslo_config import cfg
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource

from barbtx.api.fingerprints import Fingerprints
from barbtx.api.order_watch import OrderWatch
from barbtx.identity.policy import Policy
from barbtx.model.repositories.registry import Repositories
from barbtx.plugin.manager import StoreManager
from barbtx.queue.client import TaskClient
from barbtx.reactor import IReactor
from barbtx.times import Clock
from barbtx.validators import provides

if TYPE_CHECKING:
    from barbtx.api.dispatch import Controller


@attrs.frozen
class PipelineContext:
    """The objects that the pipeline is built from. None needs a database, to allow checks without one.

    :ivar make_application: makes the resource behind the pipeline from its routes.
    :ivar gauges: sources of the status report by name; pipeline steps add theirs.
    """

    conf: cfg.ConfigOpts
    reactor: IReactor = attrs.field(validator=provides(IReactorTime))
    clock: Clock
    make_application: Callable[[Mapping[str, type[Controller[Any]]]], IResource]
    gauges: dict[str, Callable[[], Mapping[str, object]]] = attrs.field(factory=dict, init=False, repr=False)


@attrs.frozen
class Dependencies:
    """The collaborators of controllers.

    :ivar fingerprints: made from the configuration and the stores.
    """

    conf: cfg.ConfigOpts
    reactor: IReactorTime = attrs.field(validator=provides(IReactorTime))
    clock: Clock
    policy: Policy
    repositories: Repositories
    stores: StoreManager
    task_client: TaskClient
    order_watch: OrderWatch
    fingerprints: Fingerprints = attrs.field(init=False)

    @fingerprints.default
    def _fingerprints(self) -> Fingerprints:
        return Fingerprints.from_config(self.conf, self.stores)
