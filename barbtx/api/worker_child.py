"""A worker as its parent sees it: its process, its log and the requests to it."""

from __future__ import annotations

import enum
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.process import Process
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx.api.worker import Channel
from barbtx.invocation import Invocation
from barbtx.reactor import IReactor
from barbtx.signals import blocked
from barbtx.worker_process import (
    CHANNEL,
    CHECK_FIRST,
    CLOSED,
    LISTENING,
    OPEN,
    OPENING,
    RELOAD,
    RELOADED,
    REPORT,
    SOCKET,
    VARIABLE,
)

log = Logger()

#: Options that the parent uses itself, so that all processes keep those of its startup.
FIXED = (
    "[DEFAULT] graceful_shutdown_timeout",
    "[DEFAULT] log_format",
    "[DEFAULT] log_level",
    "[DEFAULT] start_check_seconds",
    "[api] bind_host",
    "[api] bind_port",
    "[api] workers",
)

# How long a reading of the log waits for more lines, in seconds. Reading each line for itself would cost more than
# writing it.
_LOG_INTERVAL = 0.025
# A read of this length may have left something in the pipe.
_READ_BYTES = 8192
# The longest line that is kept until its end arrives.
_LINE_BYTES_MAX = 1 << 20


@attrs.frozen
class Command:
    """The command line of workers: that of this process, with the parts that concern a worker.

    :ivar arguments: of the interpreter.
    """

    arguments: tuple[str, ...]

    @classmethod
    def from_invocation(cls, invocation: Invocation, conf: cfg.ConfigOpts) -> Command:
        """Make the command line from that of this process, with absolute paths: twistd changes the directory later.

        :param conf: the configuration of this process.
        """
        twistd = invocation.twistd
        script = sys.argv[0]
        # The interpreter's options and the script: all but the script's own arguments.
        program = [
            os.path.abspath(part) if part == script and os.path.isfile(part) else part
            for part in sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
        ]
        options = ["--nodaemon", "--pidfile="]
        if twistd.get("reactor"):
            options.append(f"--reactor={twistd['reactor']}")
        if twistd.get("logger"):
            options.append(f"--logger={twistd['logger'].__module__}.{twistd['logger'].__qualname__}")
        if twistd.get("syslog"):
            options += ["--syslog", f"--prefix={twistd['prefix']}"]
        options += ["barbtx", *(f"--config-file={os.path.abspath(path)}" for path in invocation.files)]
        options += [f"--set={setting}" for setting in invocation.settings]
        for name in FIXED:
            section, _, option = name[1:].partition("] ")
            value = str((conf if section == "DEFAULT" else conf[section])[option]).replace("$", "$$")
            options.append(f"--set={section}.{option}={value}")
        return cls((*program[1:], *options))


class Child(ProcessProtocol):
    """A worker process.

    :param number: the number of the worker.
    :param write: writes lines of its log.
    :param grace: seconds after which a process that was asked to stop is killed.
    :ivar pid: its process id.
    :ivar since: the reactor's time when it was started.
    :ivar open: whether it is about to accept connections or does.
    :ivar listening: whether it has begun to accept connections, and has not ended.
    :ivar stopping: whether it was asked to stop.
    :ivar running: whether it has not ended.
    :ivar outcome: how it has ended.
    """

    def __init__(self, reactor: IReactor, number: int, write: Callable[[str], None], grace: float) -> None:
        self.pid = 0
        self.since = reactor.seconds()
        self.open = self.listening = self.stopping = False
        self.running = True
        self.outcome = ""
        self._reactor = reactor
        self._number = number
        self._grace = grace
        self._lines = _Lines(write)
        self._errors = _Lines(self._log_errors)
        self._channel = Channel(self._received)
        self._process: Process
        self._killing: IDelayedCall | None = None
        self._waiting: dict[_Event, list[Deferred[bool]]] = {event: [] for event in _Event}

    @classmethod
    def start(
        cls,
        reactor: IReactor,
        number: int,
        command: Command,
        bound: socket.socket,
        write: Callable[[str], None],
        grace: float,
        check_first: bool,
    ) -> Child:
        """Start a process.

        :param bound: the socket that it listens on.
        :param check_first: whether it listens only after the startup check has passed.
        :raises OSError: the system cannot start a process.
        """
        child = cls(reactor, number, write, grace)
        variables = {VARIABLE: str(number), "PYTHONIOENCODING": "utf-8:backslashreplace"}
        if check_first:
            variables[CHECK_FIRST] = "1"
        ours, theirs = socket.socketpair()
        # While the process imports its modules, the default handlers of these signals would end it. If the standard
        # input of this process is closed, another of its files has descriptor 0.
        with ours, theirs, open(os.devnull, "rb") as nothing, blocked():
            reactor.spawnProcess(
                child,
                sys.executable,
                [sys.executable, *command.arguments],
                {**os.environ, **variables},
                childFDs={0: nothing.fileno(), 1: "r", 2: "r", SOCKET: bound.fileno(), CHANNEL: theirs.fileno()},
            )
            child._channel.adopt(reactor, ours.detach())
        return child

    def stop(self) -> None:
        """Ask the process to shut down. If it takes too long, it is killed."""
        if not self.stopping:
            self.stopping = True
            self._signal(signal.SIGTERM)
            self._killing = self._reactor.callLater(self._grace, self._signal, signal.SIGKILL)

    def kill(self) -> None:
        """End the process at once."""
        self._signal(signal.SIGKILL)

    def report(self) -> None:
        """Make the process log a status report."""
        self._channel.sendLine(REPORT)

    def reload(self) -> Deferred[bool]:
        """Make the process reload; fires with True when it has, or with False when it has ended."""
        self._channel.sendLine(RELOAD)
        return self._wait(_Event.RELOADED)

    def wait_for_start(self) -> Deferred[bool]:
        """Return a Deferred that fires with True when the process listens, or with False when it has ended."""
        return succeed(True) if self.listening else self._wait(_Event.LISTENING)

    def wait_for_close(self) -> Deferred[bool]:
        """Return a Deferred that fires when the process has stopped listening, with False when it has ended before."""
        return self._wait(_Event.CLOSED)

    def wait_for_end(self) -> Deferred[bool]:
        """Return a Deferred that fires when the process has ended."""
        return self._wait(_Event.ENDED)

    def makeConnection(self, process: IProcessTransport) -> None:
        """Record the process id."""
        self.pid = process.pid
        # Twisted's interface does not have the methods of a producer.
        self._process = cast(Process, process)
        super().makeConnection(process)

    def outReceived(self, data: bytes) -> None:
        """Write the complete lines, and read what follows a little later."""
        self._lines.add(data)
        if len(data) < _READ_BYTES:
            self._process.pauseProducing()
            self._reactor.callLater(_LOG_INTERVAL, self._process.resumeProducing)

    def errReceived(self, data: bytes) -> None:
        """Log the complete lines: a daemon has no standard error."""
        self._errors.add(data)

    def processEnded(self, reason: Failure) -> None:
        """Record how the process has ended."""
        if self._killing is not None and self._killing.active():
            self._killing.cancel()
        self._lines.end()
        self._errors.end()
        self.running = self.open = self.listening = False
        status = reason.value
        self.outcome = (
            f"was killed by signal {status.signal}"
            if isinstance(status, ProcessTerminated) and status.signal
            else f"ended with exit status {getattr(status, 'exitCode', None)}"
        )
        for event in _Event:
            self._fire(event, event is _Event.ENDED)

    def _received(self, word: bytes) -> None:
        if word == OPENING:
            self.open = True
            self._channel.sendLine(OPEN)
        elif word == LISTENING:
            self.listening = True
            self._fire(_Event.LISTENING, True)
        elif word == CLOSED:
            self.open = False
            self._fire(_Event.CLOSED, True)
        elif word == RELOADED:
            self._fire(_Event.RELOADED, True)

    def _log_errors(self, lines: str) -> None:
        for line in lines.splitlines():
            log.error("API process {number}: {line}", number=self._number, line=line, process=self.pid)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(number.name.removeprefix("SIG"))

    def _wait(self, event: _Event) -> Deferred[bool]:
        waiting: Deferred[bool] = Deferred()
        if self.running:
            self._waiting[event].append(waiting)
        else:
            waiting.callback(event is _Event.ENDED)
        return waiting

    def _fire(self, event: _Event, value: bool) -> None:
        waiting, self._waiting[event] = self._waiting[event], []
        for each in waiting:
            if not each.called:
                each.callback(value)


class _Event(enum.Enum):
    LISTENING = enum.auto()
    RELOADED = enum.auto()
    CLOSED = enum.auto()
    ENDED = enum.auto()


class _Lines:
    """Passes the lines of a stream on when they are complete, so that those of several processes do not mix.

    :param write: called with one or more lines, each with its line break.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rest = b""

    def add(self, data: bytes) -> None:
        complete, newline, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest
        if newline:
            self._write((complete + newline).decode("utf-8", "backslashreplace"))
        if len(rest) > _LINE_BYTES_MAX:
            self.end()

    def end(self) -> None:
        if self._rest:
            self.add(b"\n")
