"""``barbtx-manage queue``: commands for dead letters."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from barbtx.cmd.counting import counted
from barbtx.config import load, require
from barbtx.queue.amqp.dead_letters import DeadLetter, DeadLetters
from barbtx.reactor import global_reactor


def add_commands(categories: Any) -> None:
    """Add the commands of the category ``queue``."""
    queue = categories.add_parser("queue", help="the task queue").add_subparsers(required=True, metavar="action")
    for name, run, summary in (
        ("dead-letters", _list, "show dead letters, oldest first"),
        ("requeue", _requeue, "send dead letters back to the queues that they came from, oldest first"),
    ):
        action = queue.add_parser(name, help=summary)
        action.add_argument("--limit", type=int, default=100, help="maximum number of dead letters (default: 100)")
        action.set_defaults(run=run)


def _list(options: argparse.Namespace) -> None:
    _show(_with_dead_letters(options, lambda letters: letters.peek(options.limit)))


def _requeue(options: argparse.Namespace) -> None:
    _show(_with_dead_letters(options, lambda letters: letters.requeue(options.limit)), "requeued")


def _show(letters: Sequence[DeadLetter], done: str = "") -> None:
    for letter in letters:
        print(f"{letter.queue}\t{letter.reason}\t{letter.body}".encode("ascii", "backslashreplace").decode())
    print(counted(len(letters), "dead letter", done))


@implementer(ILogObserver)
def _discard(event: LogEvent) -> None:
    """Drop a log event."""


def _with_dead_letters(
    options: argparse.Namespace, use: Callable[[DeadLetters], Coroutine[Any, Any, Sequence[DeadLetter]]]
) -> Sequence[DeadLetter]:
    """Run the reactor until a coroutine has ended, and return its result.

    :raises ConfigurationError: the configuration cannot be used.
    :raises NoUsableBroker: no broker can be used.
    :raises PublishRefused: a queue did not accept a message.
    """
    reactor = global_reactor()
    conf = load(options.config_file, options.set)
    if not options.config_file:
        # Without a configuration the default broker may be another program's, and "0 dead letters" be misleading.
        require(conf, (), "DEFAULT", "transport_url")
    letters = DeadLetters.from_config(reactor, conf)
    # The caller reports the error and has printed the warnings; the log would repeat them.
    globalLogBeginner.beginLoggingTo([_discard], redirectStandardIO=False, discardBuffer=True)
    outcome: list[Sequence[DeadLetter] | Failure] = []

    def begin() -> None:
        Deferred.fromCoroutine(use(letters)).addBoth(outcome.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    (result,) = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result
