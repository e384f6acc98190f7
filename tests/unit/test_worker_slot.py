"""The parent of several API processes: when it restarts one, what it passes on, and how limits are divided."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from barbtx.api.listener import ApiListener
from barbtx.api.order_watch import OrderWatch
from barbtx.api.worker_child import Child, Command, _Lines
from barbtx.api.worker_slot import Slot
from barbtx.api.worker_sockets import bind, refuse_connections
from barbtx.config import load
from barbtx.invocation import Invocation
from barbtx.times import WallClock


class FakeChild:
    """A process that listens and ends when a test says so."""

    pid = 1
    outcome = "ended with exit status 1"

    def __init__(self, now: float, bound: socket.socket) -> None:
        self.since = now
        self._bound = bound
        self.open = self.stopping = self.killed = False
        self.reloads: list[Deferred[bool]] = []
        self._started: Deferred[bool] = Deferred()
        self._closes: Deferred[bool] = Deferred()
        self._ends: list[Deferred[bool]] = []

    def listen(self) -> None:
        self.open = True
        self._bound.listen()
        self._started.callback(True)

    def close(self) -> None:
        self.open = False
        self._closes.callback(True)

    def end(self) -> None:
        self.open = False
        if not self._closes.called:
            self._closes.callback(False)
        if not self._started.called:
            self._started.callback(False)
        ends, self._ends = self._ends, []
        for end in ends:
            end.callback(True)

    def stop(self) -> None:
        self.stopping = True

    def kill(self) -> None:
        self.killed = True
        self.end()

    def reload(self) -> Deferred[bool]:
        self.reloads.append(Deferred())
        return self.reloads[-1]

    def wait_for_start(self) -> Deferred[bool]:
        return self._started

    def wait_for_close(self) -> Deferred[bool]:
        return self._closes

    def wait_for_end(self) -> Deferred[bool]:
        self._ends.append(Deferred())
        return self._ends[-1]


class Slots:
    """A slot, and the processes that it has started."""

    def __init__(self, bound: socket.socket) -> None:
        self.clock = Clock()
        self.children: list[FakeChild] = []
        self._address = bound.getsockname()
        self.slot = Slot(self.clock, 1, bound, self._start, 100.0)  # type: ignore[arg-type]

    def _start(self, number: int, bound: socket.socket) -> Any:
        self.children.append(FakeChild(self.clock.seconds(), bound))
        return self.children[-1]

    def run(self, work: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(work)

    def accepts(self) -> bool:
        """Whether the system assigns connections to the socket."""
        try:
            socket.create_connection(self._address).close()
        except ConnectionRefusedError:
            return False
        return True

    def serve(self) -> FakeChild:
        """Start the first process."""
        self.run(self.slot.start())
        self.children[-1].listen()
        return self.children[-1]


@pytest.fixture
def made() -> Iterator[Slots]:
    (bound,) = bind("127.0.0.1", 0, 1)
    with bound:
        yield Slots(bound)


def test_the_first_end_is_followed_by_a_restart_at_once_and_further_ones_by_longer_waits(made: Slots) -> None:
    made.serve().end()
    waits = []
    for number in range(2, 12):
        before = made.clock.seconds()
        while len(made.children) < number:
            made.clock.advance(0.1)
        waits.append(made.clock.seconds() - before)
        made.children[-1].end()
    assert waits[0] < 0.2 and 0.9 < waits[1] < 2.2 and 1.9 < waits[2] < 3.2
    assert all(29 < wait < 32 for wait in waits[-3:])
    assert made.slot.child is None and made.slot.restarts == 10


def test_a_process_that_has_run_for_a_while_is_restarted_at_once(made: Slots) -> None:
    made.serve()
    for number in range(2, 6):
        made.clock.advance(61)
        made.children[-1].end()
        made.clock.advance(0)
        assert len(made.children) == number
        made.children[-1].listen()
    assert made.slot.restarts == 4


def test_a_process_is_replaced_only_when_the_next_one_listens(made: Slots) -> None:
    old = made.serve()
    replaced = made.run(made.slot.replace())
    new = made.children[-1]
    assert made.slot.child is old and not old.stopping
    new.listen()
    assert made.slot.child is new and old.stopping and not replaced.called
    old.end()
    assert replaced.result is True and len(made.children) == 2


def test_a_process_stays_if_the_next_one_cannot_start(made: Slots) -> None:
    old = made.serve()
    replaced = made.run(made.slot.replace())
    made.children[-1].end()
    assert replaced.result is False and made.slot.child is old and not old.stopping
    made.clock.advance(3600)
    assert len(made.children) == 2
    # Nor if it never listens.
    replaced = made.run(made.slot.replace())
    made.clock.advance(101)
    assert replaced.result is False and made.children[-1].killed and made.slot.child is old


def test_a_process_that_ends_while_the_next_one_cannot_start_is_restarted(made: Slots) -> None:
    old = made.serve()
    made.run(made.slot.replace())
    old.end()
    assert made.slot.child is None
    made.children[-1].end()
    made.clock.pump([0.1] * 50)
    assert len(made.children) == 3
    made.children[-1].listen()
    assert made.slot.child is made.children[-1]


def test_a_process_that_stops_by_itself_gets_no_connections_before_it_has_ended(made: Slots) -> None:
    stopping = made.serve()
    assert made.accepts()
    stopping.close()
    assert made.slot.child is stopping and not made.accepts()
    stopping.end()
    made.clock.advance(0)
    assert not made.accepts()
    made.children[-1].listen()
    assert made.accepts()


@pytest.mark.parametrize("end", ["close", "end"])
def test_connections_do_not_wait_for_a_replacement_that_may_never_listen(made: Slots, end: str) -> None:
    old = made.serve()
    made.run(made.slot.replace())
    getattr(old, end)()
    assert not made.accepts()
    made.children[-1].listen()
    assert made.accepts()


@pytest.mark.parametrize("end", ["close", "end"])
def test_a_process_that_listens_or_is_about_to_is_not_disturbed_by_the_end_of_another(made: Slots, end: str) -> None:
    old = made.serve()
    made.run(made.slot.replace())
    new = made.children[-1]
    new.open = True
    getattr(old, end)()
    assert made.accepts()
    # Unless it ends without having listened.
    new.end()
    assert not made.accepts()


def test_a_process_that_is_replaced_leaves_its_connections_to_the_next_one(made: Slots) -> None:
    old = made.serve()
    made.run(made.slot.replace())
    made.children[-1].listen()
    old.close()
    assert made.accepts()
    old.end()
    assert made.accepts()


def test_a_reload_waits_for_a_process_that_is_starting_and_not_for_ever(made: Slots) -> None:
    made.serve().end()
    made.clock.advance(0)
    reloaded = made.run(made.slot.reload())
    new = made.children[-1]
    assert not new.reloads
    new.listen()
    assert len(new.reloads) == 1 and not reloaded.called
    made.clock.advance(3600)
    assert reloaded.called and made.slot.child is new


def test_a_stop_ends_all_processes_and_starts_none(made: Slots) -> None:
    old = made.serve()
    made.run(made.slot.replace())
    stopped = made.slot.stop()
    assert all(child.stopping for child in made.children)
    old.end()
    assert not stopped.called
    made.children[-1].end()
    assert stopped.called
    made.clock.advance(3600)
    assert len(made.children) == 2


def test_sockets_share_a_port_and_the_queue_of_one_that_nobody_serves_is_left_out() -> None:
    first, second = bind("127.0.0.1", 0, 2)
    with first, second:
        address = first.getsockname()
        assert second.getsockname() == address
        first.listen()
        second.listen()
        refuse_connections(first)
        clients = [socket.create_connection(address) for _ in range(10)]
        for client in clients:
            second.accept()[0].close()
            client.close()
        with pytest.raises(OSError, match="in use"):
            bind(*address, 2)
        # It takes part again when a process listens.
        first.listen()
        refuse_connections(second)
        with socket.create_connection(address):
            first.accept()[0].close()


async def ended(script: str) -> tuple[str, str]:
    """Run a script as a worker; how it has ended, and what it has printed."""
    from twisted.internet import reactor

    written: list[str] = []
    (bound,) = bind("127.0.0.1", 0, 1)
    with bound:
        child = Child.start(reactor, 1, Command(("-c", script)), bound, written.append, 1.0, False)  # type: ignore[arg-type]
        await child.wait_for_end()
    return child.outcome, "".join(written)


@pytest_twisted.ensureDeferred
async def test_a_worker_that_is_still_importing_survives_the_signals_that_are_meant_for_its_parent() -> None:
    script = """
import os, signal
for number in (signal.SIGHUP, signal.SIGUSR1):
    os.kill(os.getpid(), number)
from barbtx.signals import before_start
before_start()
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    assert await ended(script) == ("ended with exit status 0", "set()\n")
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest_twisted.ensureDeferred
async def test_a_worker_has_no_input() -> None:
    script = "import os; print(os.path.sameopenfile(0, os.open(os.devnull, os.O_RDONLY)))"
    # Descriptor 0 of this process, as if another file had got it after standard input was closed.
    before = os.dup(0)
    own = os.open(__file__, os.O_RDONLY)
    os.dup2(own, 0)
    try:
        assert await ended(script) == ("ended with exit status 0", "True\n")
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(own)


def test_lines_are_passed_on_complete() -> None:
    written: list[str] = []
    lines = _Lines(written.append)
    for piece in (b"on", b"e\ntwo\nthr", "eé\n".encode()[:2], "eé\n".encode()[2:], b"\xff", b"rest"):
        lines.add(piece)
    assert written == ["one\ntwo\n", "threé\n"]
    lines.end()
    assert "".join(written) == "one\ntwo\nthreé\n\\xffrest\n"
    lines.add(b"x" * (3 << 20))
    assert len(written[-1]) > 1 << 20


def test_a_worker_gets_the_arguments_of_its_parent_and_what_the_parent_has_settled(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "sys.orig_argv", ["python", "-X", "dev", "/bin/twistd", "--pidfile=x", "barbtx", "--set", "a.b=c"]
    )
    monkeypatch.setattr("sys.argv", ["/bin/twistd", "--pidfile=x", "barbtx", "--set", "a.b=c"])
    monkeypatch.chdir(tmp_path)
    twistd = {"pidfile": "x", "syslog": True, "prefix": "keys", "logfile": "y", "reactor": "poll"}
    conf = load(overrides=["api.workers=3", "api.bind_host=localhost", "log_format=json"])
    arguments = Command.from_invocation(Invocation(["own.conf"], ["a.b=c"], twistd, print), conf).arguments
    program, own, inherited, settled = arguments[:3], arguments[3:8], arguments[8:11], arguments[11:]
    assert program == ("-X", "dev", "/bin/twistd")
    assert own == ("--nodaemon", "--pidfile=", "--reactor=poll", "--syslog", "--prefix=keys")
    assert inherited == ("barbtx", f"--config-file={tmp_path}/own.conf", "--set=a.b=c")
    assert {"--set=api.workers=3", "--set=api.bind_host=localhost", "--set=DEFAULT.log_format=json"} < set(settled)


def test_a_worker_finds_a_script_that_its_parent_was_given_by_a_relative_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "twistd").touch()
    monkeypatch.setattr("sys.orig_argv", ["python", "./twistd", "--rundir=/", "barbtx"])
    monkeypatch.setattr("sys.argv", ["./twistd", "--rundir=/", "barbtx"])
    monkeypatch.chdir(tmp_path)
    assert Command.from_invocation(Invocation([], [], {}, print), load()).arguments[0] == f"{tmp_path}/twistd"
    # With -m, the interpreter finds the script itself.
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "twisted", "barbtx"])
    monkeypatch.setattr("sys.argv", ["/lib/twisted/__main__.py", "barbtx"])
    assert Command.from_invocation(Invocation([], [], {}, print), load()).arguments[:2] == ("-m", "twisted")


@pytest.mark.parametrize(("workers", "limits"), [(1, (10, 7, 5, 6, 3, 0)), (4, (3, 2, 2, 2, 1, 0))])
def test_the_limits_of_clients_are_divided(workers: int, limits: tuple[int, ...]) -> None:
    conf = load(
        overrides=[
            f"api.workers={workers}",
            "api.max_connections=10",
            "api.max_connections_per_client=7",
            "api.reserved_connections=5",
            "api.max_waiters=6",
            "api.max_waiters_per_project=3",
            "api.max_waiters_per_client=0",
        ]
    )
    connections = ApiListener(Clock(), conf, Resource(), print).site.connections  # type: ignore[arg-type]
    watch = OrderWatch.from_config(Clock(), WallClock(), None, conf)  # type: ignore[arg-type]
    found = (connections.limit, connections.per_client, connections.reserve)
    assert (*found, watch.limit, watch.project_limit, watch.client_limit) == limits
