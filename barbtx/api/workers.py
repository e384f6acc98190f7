"""The parent of several API processes on one port: starts, restarts, reloads and stops them."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping

import attrs
from oslo_config import cfg
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx.api.listener import cannot_listen, log_listening, resolve
from barbtx.api.worker_child import FIXED, Child, Command
from barbtx.api.worker_slot import Slot
from barbtx.api.worker_sockets import bind
from barbtx.errors import ConfigurationError
from barbtx.lifecycle import ProcessExit, Stack
from barbtx.reactor import IReactor
from barbtx.reload import Coalesced, changed_options, section_of
from barbtx.runtime import RELOADABLE, Runtime, in_thread
from barbtx.signals import Signals
from barbtx.status_report import StatusReport

log = Logger()

# The parent waits for its workers for so much longer than their own shutdown may take, and then kills them; after the
# same time again, it exits.
_GRACE_SECONDS = 5.0
# What a start may take besides the startup check, on a machine at its limit.
_START_SECONDS = 120.0


def make_workers(reactor: IReactor, runtime: Runtime, command: Command, write: Callable[[str], None]) -> MultiService:
    """Make the services of a parent.

    :param command: starts a worker.
    :param write: writes lines of the workers' logs.
    """
    conf = runtime.conf
    process_exit = ProcessExit.from_config(reactor, conf, 2 * _GRACE_SECONDS)
    workers = Workers(reactor, conf, command, write, process_exit)
    reload = RollingReload(workers, conf, lambda: in_thread(reactor, runtime.read))
    own_report = StatusReport(reactor, conf, {"API processes": workers.gauges})

    def report() -> None:
        own_report()
        workers.report()

    return Stack.of(process_exit, Signals(reactor, reload, report), workers)


def check_workers(reactor: IReactor, conf: cfg.ConfigOpts) -> None:
    """Check that this system can distribute connections among as many processes as configured.

    :raises ConfigurationError: it cannot.
    """
    if conf.api.workers > 1 and not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError("[api] workers: this system has no SO_REUSEPORT; only 1 is possible")


class Workers(Service):
    """Keeps the configured number of workers running.

    The first worker starts alone, so that a problem that all of them would have is reported once.

    :param command: starts a worker.
    :param write: writes lines of the workers' logs.
    :param process_exit: ends this process if a worker cannot start at the beginning.
    """

    def __init__(
        self,
        reactor: IReactor,
        conf: cfg.ConfigOpts,
        command: Command,
        write: Callable[[str], None],
        process_exit: ProcessExit,
    ) -> None:
        self._reactor = reactor
        self._conf = conf
        self._command = command
        self._write = write
        self._process_exit = process_exit
        self._slots: list[Slot] = []
        self._started = False

    def startService(self) -> None:
        """Bind the sockets and start the workers."""
        super().startService()
        Deferred.fromCoroutine(self._start()).addErrback(self._failed)

    def stopService(self) -> Deferred[None]:
        """Stop the workers; the Deferred fires when all have ended."""
        super().stopService()
        return DeferredList([slot.stop() for slot in self._slots]).addCallback(lambda _: None)

    async def restart(self) -> bool:
        """Replace all workers, one after the other, until one cannot start; return whether all were replaced."""
        for slot in self._slots:
            if not await slot.replace():
                return False
        return True

    async def reload(self) -> None:
        """Make all workers reload, one after the other."""
        for slot in self._slots:
            await slot.reload()

    def report(self) -> None:
        """Make all workers log a status report."""
        for slot in self._slots:
            if slot.child is not None:
                slot.child.report()

    def gauges(self) -> Mapping[str, object]:
        """Return the state of each worker, for the status report."""
        now = self._reactor.seconds()
        return {
            str(
                slot.number
            ): f"process id {slot.child.pid}, up {now - slot.child.since:.0f} s, {slot.restarts} restarts"
            if slot.child is not None
            else f"does not serve, {slot.restarts} restarts"
            for slot in self._slots
        }

    async def _start(self) -> None:
        api = self._conf.api
        try:
            address = await resolve(self._reactor, api.bind_host)
            if not self.running:
                return
            sockets = bind(address, api.bind_port, api.workers)
        except OSError as problem:
            self._process_exit.refuse(cannot_listen(api, problem))
            return
        port = sockets[0].getsockname()[1]
        seconds = self._conf.start_check_seconds + _START_SECONDS
        self._slots = [
            Slot(self._reactor, number, bound, self._start_child, seconds) for number, bound in enumerate(sockets, 1)
        ]
        first, *others = self._slots
        if await first.start():
            outcomes = await DeferredList([Deferred.fromCoroutine(slot.start()) for slot in others])
            if all(outcome is True for _, outcome in outcomes):
                self._started = True
                log_listening(api.bind_host, port)
                return
        if self.running:
            self._process_exit.fail()

    def _failed(self, failure: Failure) -> None:
        log.failure("startup failed", failure=failure)
        self._process_exit.fail()

    def _start_child(self, number: int, bound: socket.socket) -> Child:
        grace = self._conf.graceful_shutdown_timeout + _GRACE_SECONDS
        # A process that could only answer with 503 must not take connections from others. At the beginning there are
        # none, and the service listens even if the database is down.
        check_first = self._started and any(slot.child is not None for slot in self._slots)
        return Child.start(self._reactor, number, self._command, bound, self._write, grace, check_first)


@attrs.define(eq=False)
class RollingReload:
    """Reloads the workers one after the other, or replaces them if options have changed that need a restart.

    A configuration with an error reaches the workers as well: each of them reports it and reloads the other parts.

    :ivar conf: the configuration at startup.
    :ivar read: reads the configuration.
    """

    workers: Workers
    conf: cfg.ConfigOpts
    read: Callable[[], Awaitable[cfg.ConfigOpts]]
    _applied: cfg.ConfigOpts = attrs.field(init=False)
    _run: Coalesced = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._applied = self.conf
        self._run = Coalesced(self._once)

    def __call__(self) -> Deferred[None]:
        """Reload; the Deferred fires when it is done, whether or not it succeeded."""
        return Deferred.fromCoroutine(self._run()).addErrback(
            lambda failure: log.failure("reloading the API processes failed", failure=failure)
        )

    async def _once(self) -> None:
        try:
            conf = await self.read()
        except ConfigurationError:
            conf = self._applied
        fixed = [name for name in changed_options(self.conf, conf) if name in FIXED]
        if fixed:
            log.warn("changed, but not in effect until a restart: {options}", options=", ".join(fixed))
        changed = [
            name
            for name in changed_options(self._applied, conf)
            if name not in FIXED and section_of(name) not in RELOADABLE
        ]
        if not changed:
            log.info("reloading the API processes, one after the other")
            await self.workers.reload()
            return
        log.info("replacing the API processes, one after the other, because of {options}", options=", ".join(changed))
        if await self.workers.restart():
            self._applied = conf
            log.info("all API processes were replaced; {options} is in effect", options=", ".join(changed))
        else:
            log.error("an API process cannot be replaced; the previous configuration stays in effect for the others")
