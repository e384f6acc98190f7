"""The services of a worker process."""

from __future__ import annotations

from twisted.application.service import Service

from barbtx.errors import ConfigurationError
from barbtx.lifecycle import CheckedStart, DatabaseService, ProcessExit, Stack
from barbtx.queue.amqp.publisher import AMQPTransport
from barbtx.queue.client import TaskClient
from barbtx.queue.retry_scheduler import RetryScheduler
from barbtx.reactor import IReactor
from barbtx.runtime import Runtime
from barbtx.signals import Signals
from barbtx.status_report import StatusReport
from barbtx.tasks.count_folding import CountFolding
from workers.keystone_notifications import make_notification_consumer
from workers.niceness import Niceness
from workers.orders import OrderConsumers
from workers.project_remover import make_project_remover


def make_worker(reactor: IReactor, runtime: Runtime) -> Service:
    """Make the services of a worker.

    With ``[queue] enable`` these are the consumers of tasks and a retry scheduler; with ``[keystone_notifications]
    enable``, the consumer of Keystone's notifications and the project remover.

    :raises ConfigurationError: neither is enabled, or the options of the message broker are invalid.
    """
    conf = runtime.conf
    if not (conf.queue.enable or conf.keystone_notifications.enable):
        raise ConfigurationError("[queue] enable is false: the API process runs its tasks itself and needs no worker")
    process_exit = ProcessExit.from_config(reactor, conf)
    working: list[Service] = [CountFolding(reactor, runtime.repositories.secret_counts)]
    gauges = runtime.gauges()
    if conf.queue.enable:
        transport = AMQPTransport.from_config(reactor, conf, process_exit.refuse)
        scheduler = RetryScheduler(reactor, conf, runtime.repositories.orders, TaskClient(transport))
        tasks = runtime.tasks()
        consumers = OrderConsumers(reactor, conf, tasks, process_exit.refuse)
        process_exit.without_waiting_if(lambda: consumers.unfinished)
        gauges |= {"queue": transport.gauges, "orders": consumers.gauges, "leases": tasks.leases.gauges}
        working += [transport, scheduler, consumers]
    if conf.keystone_notifications.enable:
        remover = make_project_remover(reactor, conf, runtime.advance_removal())
        notifications = make_notification_consumer(
            reactor, conf, runtime.repositories.pending_removals, remover.wake, process_exit.refuse
        )
        gauges["notifications"] = notifications.gauges
        working += [remover, notifications]
    return Stack.of(
        Niceness(conf.queue.niceness),
        process_exit,
        Signals(reactor, runtime.reload(), StatusReport(reactor, conf, gauges)),
        DatabaseService(runtime.database, conf.thread_shutdown_seconds),
        CheckedStart(runtime, Stack.of(*working), process_exit.refuse, conf.start_check_seconds),
    )
