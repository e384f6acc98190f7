"""The API process: the listening service, and what it needs beside it."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg
from twisted.application.service import Service
from twisted.web.resource import IResource

from barbtx.api.dependencies import Dependencies
from barbtx.api.listener import ApiListener
from barbtx.api.order_watch import OrderWatch
from barbtx.api.pipeline import load_pipeline
from barbtx.identity.policy import Policy
from barbtx.identity.policy_reload import PolicyReloader
from barbtx.lifecycle import CheckedStart, DatabaseService, ProcessExit, Stack
from barbtx.queue.amqp.publisher import AMQPTransport
from barbtx.queue.client import TaskClient
from barbtx.queue.local import LocalService, LocalTransport
from barbtx.queue.retry_scheduler import RetryScheduler
from barbtx.runtime import Runtime
from barbtx.signals import Signals
from barbtx.status_report import StatusReport
from barbtx.times import WallClock


def _make_policy(reactor: Any, conf: cfg.ConfigOpts) -> Policy:
    return Policy.from_config(conf)


def _make_pipeline(reactor: Any, conf: cfg.ConfigOpts) -> IResource:
    nothing = [None] * 5
    return load_pipeline(Dependencies(conf, reactor, WallClock(), *nothing))


#: What an API process makes from the configuration beside what all processes do.
API_PARTS = (_make_policy, _make_pipeline)


def make_api(reactor: Any, runtime: Runtime) -> Service:
    """Make an API process. Without a broker it runs the tasks as well.

    :raises ConfigurationError: something is not as it should be.
    """
    conf = runtime.conf
    stack, serving = Stack(), Stack()
    ending = ProcessExit.from_config(reactor, conf)
    ending.setServiceParent(stack)
    gauges = runtime.gauges()
    if conf.queue.enable:
        transport = AMQPTransport.from_config(reactor, conf, ending.refuse)
        transport.setServiceParent(serving)
        client = TaskClient(transport)
    else:
        tasks = runtime.tasks()
        gauges["leases"] = tasks.leases.gauges
        transport = LocalTransport(
            tasks, conf.queue.asynchronous_workers, conf.queue.local_max_waiting, conf.queue.asymmetric_workers
        )
        local = LocalService(reactor, transport, conf.queue.shutdown_seconds, tasks.stop_waiting)
        ending.without_waiting_if(lambda: local.unfinished)
        local.setServiceParent(serving)
        client = TaskClient(transport, conf.queue.local_wait_seconds)
    RetryScheduler(reactor, conf, runtime.repositories.orders, client).setServiceParent(serving)
    policy = Policy.from_config(conf)
    policy_reloader = PolicyReloader(reactor, policy, conf.policy.reload_seconds)
    policy_reloader.setServiceParent(serving)
    watch = OrderWatch.from_config(reactor, runtime.clock, runtime.repositories.orders, conf)
    dependencies = Dependencies(
        conf, reactor, runtime.clock, policy, runtime.repositories, runtime.stores, client, watch
    )
    listener = ApiListener(reactor, conf, load_pipeline(dependencies), ending.refuse, watch.release)
    listener.setServiceParent(serving)
    gauges |= {"queue": transport.gauges, "http": listener.site.gauges, "waiting": watch.gauges, **dependencies.gauges}
    Signals(reactor, runtime.reload(policy_reloader.reload), StatusReport(reactor, conf, gauges)).setServiceParent(
        stack
    )
    DatabaseService(runtime.database, conf.thread_shutdown_seconds).setServiceParent(stack)
    CheckedStart(runtime, serving, ending.refuse, conf.start_check_seconds).setServiceParent(stack)
    return stack
