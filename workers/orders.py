"""The consumer of order tasks, as a worker process runs it."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service

from barbtx.errors import ConfigurationError
from barbtx.foundation import CheckedStart, DatabaseService, Foundation, Stack, end_process
from barbtx.queue.amqp.consumer import TaskConsumer
from barbtx.queue.amqp.publisher import AMQPTransport
from barbtx.queue.client import TaskClient
from workers.retry_scheduler import RetryScheduler


def make_worker(reactor: Any, foundation: Foundation) -> Service:
    """A worker: a consumer that runs tasks, and a scheduler.

    :raises ConfigurationError: there is no queue to take them from.
    """
    conf = foundation.conf
    if not conf.queue.enable:
        raise ConfigurationError("[queue] enable is false: the API process runs its tasks itself and needs no worker")
    transport = AMQPTransport.from_config(reactor, conf)
    working = Stack()
    transport.setServiceParent(working)
    RetryScheduler(reactor, conf, foundation.orders, TaskClient(transport)).setServiceParent(working)
    TaskConsumer.from_config(reactor, conf, foundation.tasks()).setServiceParent(working)
    stack = Stack()
    DatabaseService(foundation.database).setServiceParent(stack)
    CheckedStart(foundation, working, lambda: end_process(reactor)).setServiceParent(stack)
    return stack
