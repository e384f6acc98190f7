"""A worker process: what it runs beside the API."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.application.service import Service

from barbtx.errors import ConfigurationError
from barbtx.foundation import Abandon, CheckedStart, DatabaseService, Foundation, Stack, refuse_start
from barbtx.queue.amqp.publisher import AMQPTransport
from barbtx.queue.client import TaskClient
from workers.keystone_notifications import make_notification_consumer
from workers.orders import make_order_consumer
from workers.project_remover import make_project_remover
from workers.retry_scheduler import RetryScheduler


def make_worker(reactor: Any, foundation: Foundation) -> Service:
    """A worker: a consumer that runs tasks, and a scheduler; a consumer of Keystone's notifications and
    what removes deleted projects, if wanted.

    :raises ConfigurationError: there is no queue to take anything from.
    """
    conf = foundation.conf
    if not (conf.queue.enable or conf.keystone_notifications.enable):
        raise ConfigurationError("[queue] enable is false: the API process runs its tasks itself and needs no worker")
    refuse = partial(refuse_start, reactor)
    stack, working = Stack(), Stack()
    if conf.queue.enable:
        transport = AMQPTransport.from_config(reactor, conf, refuse)
        transport.setServiceParent(working)
        RetryScheduler(reactor, conf, foundation.orders, TaskClient(transport)).setServiceParent(working)
        consumer = make_order_consumer(reactor, conf, foundation.tasks(), refuse)
        Abandon(lambda: consumer.abandoned).setServiceParent(stack)
        consumer.setServiceParent(working)
    if conf.keystone_notifications.enable:
        remover = make_project_remover(reactor, conf, foundation.step_removal())
        remover.setServiceParent(working)
        make_notification_consumer(reactor, conf, foundation.removals(), remover.wake, refuse).setServiceParent(working)
    DatabaseService(foundation.database).setServiceParent(stack)
    CheckedStart(foundation, working, refuse).setServiceParent(stack)
    return stack
