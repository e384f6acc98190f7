"""The API process: the listening service, and what it needs beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oslo_config import cfg
from twisted.application.service import Service
from twisted.web.resource import IResource

from barbtx.api.pipeline import load_pipeline
from barbtx.api.service import ApiService
from barbtx.api.services import Services
from barbtx.foundation import Foundation
from barbtx.identity.policy import Policy
from barbtx.identity.policy_reload import PolicyReloader
from barbtx.lifecycle import CheckedStart, DatabaseService, ProcessExit, Stack
from barbtx.model.repositories.orders import OrderRepo
from barbtx.queue.amqp.publisher import AMQPTransport
from barbtx.queue.client import TaskClient
from barbtx.queue.local import LocalService, LocalTransport
from barbtx.report import Report
from barbtx.signals import Signals
from barbtx.times import WallClock


def _make_policy(reactor: Any, conf: cfg.ConfigOpts) -> Policy:
    return Policy.from_config(conf)


def _make_pipeline(reactor: Any, conf: cfg.ConfigOpts) -> IResource:
    nothing = [None] * 8
    return load_pipeline(Services(conf, reactor, WallClock(), *nothing))


#: What an API process makes from the configuration beside what all processes do.
API_PARTS = (_make_policy, _make_pipeline)


def make_api(reactor: Any, foundation: Foundation,
             make_scheduler: Callable[[Any, cfg.ConfigOpts, OrderRepo, TaskClient], Service]) -> Service:
    """An API process. Without a broker it runs the tasks as well.

    :param make_scheduler: makes the service that sends again what was not done.
    :raises ConfigurationError: something is not as it should be.
    """
    conf = foundation.conf
    stack, serving = Stack(), Stack()
    ending = ProcessExit.from_config(reactor, conf)
    ending.setServiceParent(stack)
    gauges = foundation.gauges()
    if conf.queue.enable:
        transport = AMQPTransport.from_config(reactor, conf, ending.refuse)
        transport.setServiceParent(serving)
        client = TaskClient(transport)
    else:
        tasks = foundation.tasks()
        gauges["leases"] = tasks.leases.gauges
        transport = LocalTransport(tasks, conf.queue.asynchronous_workers, conf.queue.local_max_waiting,
                                   conf.queue.asymmetric_workers)
        local = LocalService(reactor, transport, conf.queue.shutdown_seconds, tasks.stop_waiting)
        ending.without_waiting_if(lambda: local.abandoned)
        local.setServiceParent(serving)
        client = TaskClient(transport, conf.queue.local_wait_seconds)
    make_scheduler(reactor, conf, foundation.orders, client).setServiceParent(serving)
    policy = Policy.from_config(conf)
    policy_reloader = PolicyReloader(reactor, policy, conf.policy.reload_seconds)
    policy_reloader.setServiceParent(serving)
    services = Services(conf, reactor, foundation.clock, policy, foundation.database, foundation.secrets,
                        foundation.orders, foundation.containers, foundation.quotas, foundation.stores, client)
    listener = ApiService(reactor, conf, load_pipeline(services), ending.refuse, services.watch.release)
    listener.setServiceParent(serving)
    gauges |= {"queue": transport.gauges, "http": listener.site.gauges, "waiting": services.watch.gauges, **services.gauges}
    Signals(reactor, foundation.reload(policy_reloader.reload), Report(reactor, conf, gauges)).setServiceParent(stack)
    DatabaseService(foundation.database, conf.thread_shutdown_seconds).setServiceParent(stack)
    CheckedStart(foundation, serving, ending.refuse, conf.start_check_seconds).setServiceParent(stack)
    return stack
