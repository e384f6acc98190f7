"""Policy files that an operator changes while the service runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx.errors import ConfigurationError
from barbtx.identity.policy import Policy
from barbtx.identity.policy_files import find_policy_files

log = Logger()


class PolicyReloader(Service):
    """Reads the rules again when it is told to, and when it sees that a file has changed.

    Rules with an error, or fewer than before, are refused as a whole: those that were there stay in force.

    :param seconds: between looks at the files; 0 for never.
    """

    def __init__(self, reactor: Any, policy: Policy, seconds: float) -> None:
        self._reactor = reactor
        self._policy = policy
        self._seconds = seconds
        # Of the files as they were read at the start, or before that.
        self._seen: object = self._state()
        self._looking: LoopingCall | None = None
        self._busy = self._again = False

    def startService(self) -> None:
        super().startService()
        if self._seconds:
            self._looking = LoopingCall(self._look)
            self._looking.clock = self._reactor
            self._looking.start(self._seconds)

    def stopService(self) -> None:
        super().stopService()
        if self._looking is not None:
            self._looking.stop()

    def _look(self) -> Deferred[None]:
        return self._in_thread(self._state).addCallbacks(self._compare, self._cannot_look)

    def _compare(self, state: object) -> Deferred[None] | None:
        seen, self._seen = self._seen, state
        return self.reload() if state != seen else None

    def _cannot_look(self, failure: Failure) -> None:
        log.warn("the policy files cannot be looked at: {reason}", reason=failure.getErrorMessage())

    def _state(self) -> object:
        found = find_policy_files(self._policy.conf)
        return [_stamp(path) for path in found.paths], found.problems

    def reload(self) -> Deferred[None]:
        """Read the rules now; fires when it is done, one way or the other."""
        if self._busy:
            # What is being read may be older than what there is now.
            self._again = True
            return succeed(None)
        self._busy = True
        return self._in_thread(self._policy.reload).addCallbacks(self._done, self._refused).addBoth(self._idle)

    def _in_thread(self, work: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)

    def _done(self, _: object) -> None:
        log.info("the policy was read again and is in force")

    def _refused(self, failure: Failure) -> None:
        if not failure.check(ConfigurationError):
            log.failure("the policy could not be read", failure=failure)
        log.error(
            "the policy was refused, and the one before stays in force: {reason}", reason=failure.getErrorMessage()
        )

    def _idle(self, outcome: object) -> object:
        self._busy = False
        again, self._again = self._again, False
        return self.reload() if again else outcome


def _stamp(path: Path) -> tuple[object, ...]:
    try:
        stat = path.stat()
    except OSError as problem:
        return str(path), problem.errno
    return str(path), stat.st_ino, stat.st_mode, stat.st_mtime_ns, stat.st_size
