"""Reloads the policy when its files change or the operator requests it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from barbtx.errors import ConfigurationError
from barbtx.identity.policy import Policy
from barbtx.identity.policy_files import find_policy_files
from barbtx.reactor import IReactor

log = Logger()

T = TypeVar("T")


class PolicyReloader(Service):
    """Reads the rules again on request, and when polling shows that a file has changed.

    If the new rules have errors, or override fewer rules than before, all of them are refused and the old ones stay in
    force.

    :param seconds: interval between polls of the files; 0 disables polling.
    """

    def __init__(self, reactor: IReactor, policy: Policy, seconds: float) -> None:
        self._reactor = reactor
        self._policy = policy
        self._seconds = seconds
        # The state of the files when their rules were read, or earlier.
        self._last_state: object = self._state()
        self._polling: LoopingCall | None = None
        self._busy = self._again = False

    def startService(self) -> None:
        """Start polling the files."""
        super().startService()
        if self._seconds:
            self._polling = LoopingCall(lambda: Deferred.fromCoroutine(self._poll()))
            self._polling.clock = self._reactor
            self._polling.start(self._seconds)

    def stopService(self) -> None:
        """Stop polling the files."""
        super().stopService()
        if self._polling is not None:
            self._polling.stop()

    async def _poll(self) -> None:
        try:
            state = await self._in_thread(self._state)
        except Exception as problem:
            log.warn("the policy files cannot be checked for changes: {reason}", reason=str(problem))
            return
        last_state, self._last_state = self._last_state, state
        if state != last_state:
            await self.reload()

    def _state(self) -> object:
        files = find_policy_files(self._policy.conf)
        return [_stamp(path) for path in files.paths], files.problems

    def reload(self) -> Deferred[None]:
        """Read the rules now.

        :return: fires with None when the rules are in force or have been refused. If a reload is in progress already,
            it fires at once, and the rules are read once more after that reload.
        """
        if self._busy:
            # The files that are being read may be older than the present ones.
            self._again = True
            return succeed(None)
        return Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> None:
        self._busy = True
        try:
            await self._read_rules()
            while self._again:
                self._again = False
                await self._read_rules()
        finally:
            self._busy = False

    async def _read_rules(self) -> None:
        try:
            await self._in_thread(self._policy.reload)
        except Exception as problem:
            if not isinstance(problem, ConfigurationError):
                log.failure("the policy could not be reloaded")
            log.error("the policy was refused, and the previous one stays in effect: {reason}", reason=str(problem))
        else:
            log.info("the policy was reloaded and is in effect")

    def _in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)


def _stamp(path: Path) -> tuple[object, ...]:
    """Return values that change when a file changes, without reading the file."""
    try:
        stat = path.stat()
    except OSError as problem:
        return str(path), problem.errno
    return str(path), stat.st_ino, stat.st_mode, stat.st_mtime_ns, stat.st_size
