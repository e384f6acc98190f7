"""``barbtx-manage``: the schema, the master key, the policy, the dead letters and the removals of projects."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from alembic import command
from sqlalchemy import exc
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from txamqp.client import Closed

from barbtx.cmd import removals
from barbtx.config import load
from barbtx.errors import ConfigurationError, NotFound
from barbtx.identity.policy import Policy
from barbtx.identity.policy_check import find_risks
from barbtx.model.migration import alembic_config
from barbtx.plugin.crypto.simple_crypto import generate_master_key
from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.dead_letters import DeadLetter, DeadLetters
from barbtx.queue.amqp.topology import Topology
from barbtx.queue.transport import Refused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ConfigurationError, NotFound, OSError, exc.DBAPIError, Refused, Closed) as problem:
        text = getattr(problem, "orig", None) or problem
        print(f"barbtx-manage: {' '.join(str(text).split())}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="barbtx-manage", description=__doc__)
    parser.add_argument("--config-file", action="append", default=[], help="a configuration file")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE",
                        help="an option; it wins over the files")
    categories = parser.add_subparsers(required=True, metavar="category")

    database = categories.add_parser("db", help="the database schema").add_subparsers(required=True, metavar="action")
    upgrade = database.add_parser("upgrade", help="bring the schema to a version")
    upgrade.add_argument("-v", "--version", default="head", help="the version (default: this release's)")
    upgrade.add_argument("-d", "--db-url", help="the database, instead of the configured one")
    upgrade.set_defaults(run=_upgrade)
    current = database.add_parser("current", help="show the schema's version")
    current.add_argument("-d", "--db-url", help="the database, instead of the configured one")
    current.set_defaults(run=_current)

    crypto = categories.add_parser("simple_crypto", help="keys of the simple_crypto plugin")
    crypto = crypto.add_subparsers(required=True, metavar="action")
    generate = crypto.add_parser("gen_mkek", help="make a master key in a new file that only its owner may read")
    generate.add_argument("file", help="where to write it; must not exist")
    generate.set_defaults(run=_generate)

    queue = categories.add_parser("queue", help="the task queue").add_subparsers(required=True, metavar="action")
    for name, run, help in (("dead-letters", _list_dead_letters, "show messages that could not be processed, oldest first"),
                            ("requeue", _requeue_dead_letters, "send them to the task queue again")):
        action = queue.add_parser(name, help=help)
        action.add_argument("--limit", type=int, default=100, help="how many, at most (default: 100)")
        action.set_defaults(run=run)

    policy = categories.add_parser("policy", help="who may do what").add_subparsers(required=True, metavar="action")
    check = policy.add_parser("check", help="name what the rules allow beyond a project or into what is private; "
                                            "exit status 3 if there is any, 1 if the rules have an error")
    check.set_defaults(run=_check_policy)

    removals.add_commands(categories)
    return parser


def _alembic(options: argparse.Namespace):
    conf = load(options.config_file, options.set)
    return alembic_config(options.db_url or conf.database.connection)


def _upgrade(options: argparse.Namespace) -> None:
    command.upgrade(_alembic(options), options.version)


def _current(options: argparse.Namespace) -> None:
    command.current(_alembic(options))


def _list_dead_letters(options: argparse.Namespace) -> None:
    _show(_with_dead_letters(options, lambda letters: letters.list(options.limit)), "dead letters")


def _requeue_dead_letters(options: argparse.Namespace) -> None:
    _show(_with_dead_letters(options, lambda letters: letters.requeue(options.limit)), "dead letters sent again")


def _show(letters: list[DeadLetter], what: str) -> None:
    for letter in letters:
        print(f"{letter.queue}\t{letter.reason}\t{letter.body}")
    print(f"{len(letters)} {what}")


def _with_dead_letters(options: argparse.Namespace, use: Callable[[DeadLetters], Any]) -> list[DeadLetter]:
    """Run the reactor for as long as it takes."""
    from twisted.internet import reactor

    conf = load(options.config_file, options.set)
    letters = DeadLetters(reactor, Brokers.from_config(conf), Topology.from_config(conf), conf.queue.heartbeat_seconds)
    outcome: list[Any] = []

    def begin() -> None:
        Deferred.fromCoroutine(use(letters)).addBoth(outcome.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]


def _check_policy(options: argparse.Namespace) -> int:
    risks = list(find_risks(Policy.from_config(load(options.config_file, options.set))))
    for risk in risks:
        print(f"risk: {risk}")
    print(f"{len(risks)} risks; config/policy-hardened.yaml closes those of the shipped rules" if risks else "no risks")
    return 3 if risks else 0


def _generate(options: argparse.Namespace) -> None:
    descriptor = os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(generate_master_key() + "\n")
        file.flush()
        os.fsync(file.fileno())
