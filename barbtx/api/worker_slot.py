"""Keeps one worker running: restarts it when it has ended, and replaces it without refusing a connection."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from barbtx.api.worker_child import Child
from barbtx.api.worker_sockets import refuse_connections
from barbtx.reactor import IReactor

log = Logger()

# A process that ends after so many seconds is restarted at once, as after its first failure.
_STABLE_SECONDS = 60.0
# Seconds before the next start, by the number of failures before this one.
_backoff = backoffPolicy(initialDelay=1.0, maxDelay=30.0, factor=2.0)
# How long the next process waits for the reload of one, in seconds.
_RELOAD_SECONDS = 120.0

T = TypeVar("T")


class Slot:
    """One of the workers, which is successively run by several processes that listen on the same socket.

    The parent keeps the socket open, so that connections which the system has assigned to it are not reset when one
    process replaces another.

    :param bound: the socket.
    :param start: starts a process that listens on a socket; raises OSError if the system cannot start one.
    :param start_seconds: after this time a process that does not listen yet is killed.
    :ivar number: from 1.
    :ivar child: the process that serves, or None.
    :ivar restarts: how often a process was started because one had ended.
    """

    def __init__(
        self,
        reactor: IReactor,
        number: int,
        bound: socket.socket,
        start: Callable[[int, socket.socket], Child],
        start_seconds: float,
    ) -> None:
        self.number = number
        self.child: Child | None = None
        self.restarts = 0
        self._reactor = reactor
        self._socket = bound
        self._start = start
        self._start_seconds = start_seconds
        self._children: set[Child] = set()
        self._lock = DeferredLock()
        self._failures = 0
        self._restarting: IDelayedCall | None = None
        self._stopped = False

    async def start(self) -> bool:
        """Start the first process; return whether it listens. If it does not, no other is started."""
        return await self._locked(self._replace)

    async def replace(self) -> bool:
        """Start a process and, when it listens, stop the one before it and wait for its end.

        :return: whether the new process listens. If it does not, the one before it goes on.
        """
        listens = await self._locked(self._replace)
        if not listens:
            self._keep()
        return listens

    async def reload(self) -> None:
        """Make the process reload, one that is starting when it listens."""
        await self._locked(self._reload)

    def describe(self, now: float) -> str:
        """Return the state of the worker, for the status report.

        :param now: the reactor's time.
        """
        state = "not serving"
        if self.child is not None:
            state = f"process id {self.child.pid}, up {now - self.child.since:.0f} s"
        return f"{state}, {self.restarts} restarts"

    def stop(self) -> Deferred[None]:
        """Stop all processes; the Deferred fires when they have ended."""
        self._stopped = True
        self._cancel_restart()
        self._socket.close()
        ended = DeferredList([child.wait_for_end() for child in self._children])
        for child in tuple(self._children):
            child.stop()
        return ended.addCallback(lambda _: None)

    async def _locked(self, work: Callable[[], Awaitable[T]]) -> T:
        await self._lock.acquire()
        try:
            return await work()
        finally:
            self._lock.release()

    async def _replace(self) -> bool:
        if self._stopped:
            return False
        self._cancel_restart()
        try:
            new = self._start(self.number, self._socket)
        except OSError as problem:
            # For instance because the user that twistd has changed to may not execute the interpreter.
            log.error("API process {number} cannot be started: {reason}", number=self.number, reason=str(problem))
            return False
        self._children.add(new)
        new.wait_for_close().addCallback(lambda _: self._refuse_unless_open())
        new.wait_for_end().addCallback(lambda _: self._ended(new))
        too_late = self._reactor.callLater(self._start_seconds, self._kill, new)
        listens = await new.wait_for_start()
        if too_late.active():
            too_late.cancel()
        if listens and not self._stopped:
            before, self.child = self.child, new
            if before is not None:
                before.stop()
                await before.wait_for_end()
        return listens

    def _kill(self, child: Child) -> None:
        log.error(
            "API process {number} does not listen after {seconds} s", number=self.number, seconds=self._start_seconds
        )
        child.kill()

    def _refuse_unless_open(self) -> None:
        """Let the other processes get all connections, unless one listens on this socket or is about to."""
        if not any(child.open for child in self._children):
            refuse_connections(self._socket)

    def _ended(self, child: Child) -> None:
        self._children.discard(child)
        if child.stopping:
            return
        log.error(
            "API process {number}, process id {process}, {outcome}",
            number=self.number,
            process=child.pid,
            outcome=child.outcome,
        )
        if child is not self.child:
            # It has not listened; who started it decides what follows.
            return
        self.child = None
        if self._reactor.seconds() - child.since > _STABLE_SECONDS:
            self._failures = 0
        self._restart_later()

    def _keep(self) -> None:
        """Have a process started unless one serves."""
        if self.child is None and not (self._restarting is not None and self._restarting.active()):
            self._restart_later()

    def _restart_later(self) -> None:
        """Start a process at once after the first failure, otherwise after a time that grows with their number."""
        if not self._stopped:
            delay = _backoff(self._failures - 1) if self._failures else 0
            self._restarting = self._reactor.callLater(delay, self._start_again)
            self._failures += 1

    def _cancel_restart(self) -> None:
        if self._restarting is not None and self._restarting.active():
            self._restarting.cancel()

    def _start_again(self) -> None:
        Deferred.fromCoroutine(self._locked(self._restart)).addErrback(
            lambda failure: log.failure("an API process cannot be restarted", failure=failure)
        )

    async def _restart(self) -> None:
        if self.child is None:
            self.restarts += 1
            if not await self._replace():
                self._keep()

    async def _reload(self) -> None:
        if self.child is not None:
            try:
                await self.child.reload().addTimeout(_RELOAD_SECONDS, self._reactor)
            except DeferredTimeout:
                log.error(
                    "API process {number} has not reloaded within {seconds} s",
                    number=self.number,
                    seconds=_RELOAD_SECONDS,
                )
