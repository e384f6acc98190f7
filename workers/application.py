"""A worker process: what it runs beside the API."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service

from barbtx.errors import ConfigurationError
from barbtx.lifecycle import CheckedStart, DatabaseService, ProcessExit, Stack
from barbtx.queue.amqp.publisher import AMQPTransport
from barbtx.queue.client import TaskClient
from barbtx.queue.retry_scheduler import RetryScheduler
from barbtx.runtime import Runtime
from barbtx.signals import Signals
from barbtx.status_report import StatusReport
from workers.keystone_notifications import make_notification_consumer
from workers.orders import OrderConsumers
from workers.project_remover import make_project_remover


def make_worker(reactor: Any, runtime: Runtime) -> Service:
    """A worker: a consumer that runs tasks, and a scheduler; a consumer of Keystone's notifications and
    what removes deleted projects, if wanted.

    :raises ConfigurationError: there is no queue to take anything from.
    """
    conf = runtime.conf
    if not (conf.queue.enable or conf.keystone_notifications.enable):
        raise ConfigurationError("[queue] enable is false: the API process runs its tasks itself and needs no worker")
    stack, working = Stack(), Stack()
    ending = ProcessExit.from_config(reactor, conf)
    ending.setServiceParent(stack)
    gauges = runtime.gauges()
    if conf.queue.enable:
        transport = AMQPTransport.from_config(reactor, conf, ending.refuse)
        transport.setServiceParent(working)
        RetryScheduler(reactor, conf, runtime.repositories.orders, TaskClient(transport)).setServiceParent(working)
        tasks = runtime.tasks()
        consumers = OrderConsumers(reactor, conf, tasks, ending.refuse)
        ending.without_waiting_if(lambda: consumers.abandoned)
        gauges |= {"queue": transport.gauges, "orders": consumers.gauges, "leases": tasks.leases.gauges}
        consumers.setServiceParent(working)
    if conf.keystone_notifications.enable:
        remover = make_project_remover(reactor, conf, runtime.advance_removal())
        remover.setServiceParent(working)
        notifications = make_notification_consumer(
            reactor, conf, runtime.repositories.pending_removals, remover.wake, ending.refuse
        )
        notifications.setServiceParent(working)
        gauges["notifications"] = notifications.gauges
    Signals(reactor, runtime.reload(), StatusReport(reactor, conf, gauges)).setServiceParent(stack)
    DatabaseService(runtime.database, conf.thread_shutdown_seconds).setServiceParent(stack)
    CheckedStart(runtime, working, ending.refuse, conf.start_check_seconds).setServiceParent(stack)
    return stack
