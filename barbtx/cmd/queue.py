"""``barbtx-manage queue``: the dead letters."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from barbtx.config import load, require
from barbtx.queue.amqp.dead_letters import DeadLetter, DeadLetters


def add_commands(categories: Any) -> None:
    """Add the commands of this category to a parser's categories."""
    queue = categories.add_parser("queue", help="the task queue").add_subparsers(required=True, metavar="action")
    for name, run, help in (
        ("dead-letters", _list, "show messages that could not be processed, oldest first"),
        ("requeue", _requeue, "send them to the queues that they came from"),
    ):
        action = queue.add_parser(name, help=help)
        action.add_argument("--limit", type=int, default=100, help="how many, at most (default: 100)")
        action.set_defaults(run=run)


def _list(options: argparse.Namespace) -> None:
    _show(_with_dead_letters(options, lambda letters: letters.peek(options.limit)), "dead letters")


def _requeue(options: argparse.Namespace) -> None:
    _show(_with_dead_letters(options, lambda letters: letters.requeue(options.limit)), "dead letters sent again")


def _show(letters: Sequence[DeadLetter], what: str) -> None:
    for letter in letters:
        print(f"{letter.queue}\t{letter.reason}\t{letter.body}".encode("ascii", "backslashreplace").decode())
    print(f"{len(letters)} {what}")


def _with_dead_letters(options: argparse.Namespace, use: Callable[[DeadLetters], Any]) -> Sequence[DeadLetter]:
    """Run the reactor for as long as it takes.

    :raises ConfigurationError: the configuration cannot be used.
    :raises Unusable: no broker can be asked.
    :raises Refused: a queue does not take a message.
    """
    from twisted.internet import reactor

    conf = load(options.config_file, options.set)
    if not options.config_file:
        # Without a configuration the default broker may be somebody else's, and "0 dead letters" an error.
        require(conf, (), "DEFAULT", "transport_url")
    letters = DeadLetters.from_config(reactor, conf)
    # What went wrong is said once, by whoever called.
    globalLogBeginner.beginLoggingTo([lambda event: None], redirectStandardIO=False)
    outcome: list[Any] = []

    def begin() -> None:
        Deferred.fromCoroutine(use(letters)).addBoth(outcome.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]
