"""The API process: the HTTP service and the services that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from twisted.application.service import IService, MultiService
from twisted.web.resource import IResource, Resource

from barbtx.api.dependencies import Dependencies, PipelineContext
from barbtx.api.dispatch import Controller
from barbtx.api.listener import ApiListener
from barbtx.api.order_watch import OrderWatch
from barbtx.api.pipeline import load_pipeline
from barbtx.api.routed_resource import RoutedResource
from barbtx.api.routes import make_app
from barbtx.api.worker import Worker
from barbtx.api.worker_child import Command
from barbtx.api.workers import check_workers, make_workers
from barbtx.identity.policy import Policy
from barbtx.identity.policy_reload import PolicyReloader
from barbtx.invocation import Invocation
from barbtx.lifecycle import CheckedStart, DatabaseService, ProcessExit, Stack
from barbtx.queue.amqp.publisher import AMQPTransport
from barbtx.queue.client import TaskClient
from barbtx.queue.local import LocalService, LocalTransport
from barbtx.queue.retry_scheduler import RetryScheduler
from barbtx.reactor import IReactor
from barbtx.runtime import Runtime
from barbtx.signals import Signals
from barbtx.status_report import StatusReport
from barbtx.tasks.count_folding import CountFolding
from barbtx.times import WallClock
from barbtx.worker_process import must_check_first


def _make_policy(reactor: IReactor, conf: cfg.ConfigOpts) -> Policy:
    return Policy.from_config(conf)


def _make_pipeline(reactor: IReactor, conf: cfg.ConfigOpts) -> IResource:
    """Build the pipeline without the application behind it, which the configuration does not affect."""
    return load_pipeline(PipelineContext(conf, reactor, WallClock(), lambda routes: Resource()))


#: The parts that only an API process makes from its configuration; see
#: :func:`barbtx.config_diagnosis.find_problems`.
API_PARTS = (_make_policy, _make_pipeline, check_workers)


def make_api_processes(reactor: IReactor, runtime: Runtime, invocation: Invocation) -> MultiService:
    """Make the services of an API process, or those of the parent of several (``[api] workers``).

    The parent makes each part of an API process as well, so that it reports the problems of a configuration.

    :raises ConfigurationError: the configuration is not valid.
    """
    worker = Worker.of_this_process(reactor)
    if worker is not None or runtime.conf.api.workers == 1:
        return make_api(reactor, runtime, worker)
    for make_part in API_PARTS:
        make_part(reactor, runtime.conf)
    command = Command.from_invocation(invocation, runtime.conf)
    return make_workers(reactor, runtime, command, invocation.write)


def make_api(reactor: IReactor, runtime: Runtime, worker: Worker | None = None) -> MultiService:
    """Make the services of an API process. Without a broker, it processes the tasks as well.

    :param worker: given if the process is one of several on a port.
    :raises ConfigurationError: the configuration is not valid.
    """
    conf, clock, orders = runtime.conf, runtime.clock, runtime.repositories.orders
    process_exit = ProcessExit.from_config(reactor, conf)
    queue_service, task_client, gauges = _make_queue(reactor, runtime, process_exit)
    policy = Policy.from_config(conf)
    policy_reloader = PolicyReloader(reactor, policy, conf.policy.reload_seconds)
    watch = OrderWatch.from_config(reactor, clock, orders, conf)
    dependencies = Dependencies(conf, reactor, clock, policy, runtime.repositories, runtime.stores, task_client, watch)

    def make_application(routes: Mapping[str, type[Controller[Any]]]) -> IResource:
        return RoutedResource(make_app(routes, dependencies))

    pipeline = PipelineContext(conf, reactor, clock, make_application)
    listener = ApiListener(reactor, conf, load_pipeline(pipeline), process_exit.refuse, watch.release, worker)
    gauges = {
        **runtime.gauges(),
        **gauges,
        "http": listener.site.gauges,
        "waiting": watch.gauges,
        **pipeline.gauges,
    }
    serving = Stack.of(
        queue_service,
        RetryScheduler(reactor, conf, orders, task_client),
        CountFolding(reactor, runtime.repositories.secret_counts),
        policy_reloader,
        listener,
    )
    reload, report = runtime.reload(policy_reloader.reload), StatusReport(reactor, conf, gauges)
    return Stack.of(
        process_exit,
        Signals(reactor, reload, report) if worker is None else worker.control(reload, report),
        DatabaseService(runtime.database, conf.thread_shutdown_seconds),
        CheckedStart(runtime, serving, process_exit.refuse, conf.start_check_seconds, must_check_first()),
    )


def _make_queue(
    reactor: IReactor, runtime: Runtime, process_exit: ProcessExit
) -> tuple[IService, TaskClient, dict[str, Callable[[], Mapping[str, object]]]]:
    """Make the service that transports tasks, the client that sends them, and their gauges."""
    conf = runtime.conf
    if conf.queue.enable:
        transport = AMQPTransport.from_config(reactor, conf, process_exit.refuse)
        return transport, TaskClient(transport), {"queue": transport.gauges}
    tasks = runtime.tasks()
    local = LocalTransport(
        tasks, conf.queue.asynchronous_workers, conf.queue.local_max_waiting, conf.queue.asymmetric_workers
    )
    service = LocalService(reactor, local, conf.queue.shutdown_seconds, tasks.stop_waiting)
    process_exit.without_waiting_if(lambda: service.unfinished)
    client = TaskClient(local, conf.queue.local_wait_seconds)
    return service, client, {"leases": tasks.leases.gauges, "queue": local.gauges}
