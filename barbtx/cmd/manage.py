"""``barbtx-manage``: the schema, master keys, the policy, dead letters and the removal of projects."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from sqlalchemy import exc
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from txamqp.client import Closed
from zope.interface import implementer

from barbtx import __version__
from barbtx.cmd import queue, removals
from barbtx.cmd.counting import counted
from barbtx.config import CONFIGURATION_HELP, load, locate, require
from barbtx.errors import ConfigurationError, NotFound, joined_lines
from barbtx.identity.policy import Policy
from barbtx.identity.policy_audit import find_risks
from barbtx.model.migration import head_revision, known_revisions
from barbtx.model.migration.counts import recount
from barbtx.model.migration.ownership import current_version
from barbtx.model.migration.upgrade import upgrade
from barbtx.plugin.crypto.simple_crypto import generate_master_key
from barbtx.queue.amqp.one_shot import NoUsableBroker
from barbtx.queue.transport import PublishRefused

# The modules that warn about configuration files and settings while the configuration is read.
_CONFIGURATION = frozenset({"barbtx.config", "barbtx.files"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    options = make_parser().parse_args(arguments)
    options.config_file = locate(options.config_file, options.config_dir)
    globalLogPublisher.addObserver(_print_warning)
    try:
        status: int | None = options.run(options)
        return status or 0
    except ConfigurationError as problem:
        for line in problem.problems:
            _complain(line)
        return 1
    except (NotFound, OSError, exc.DBAPIError, NoUsableBroker, PublishRefused, Closed) as problem:
        _complain(_describe(problem))
        return 1
    finally:
        globalLogPublisher.removeObserver(_print_warning)


def _describe(problem: Exception) -> str:
    if isinstance(problem, OSError) and problem.filename and problem.strerror:
        return f"{problem.filename}: {problem.strerror}"
    return joined_lines(getattr(problem, "orig", None) or problem)


def _complain(line: str) -> None:
    print(f"barbtx-manage: {line}", file=sys.stderr)


@implementer(ILogObserver)
def _print_warning(event: LogEvent) -> None:
    """Print a warning about the configuration, such as a secret on the command line or a file that others can read."""
    if event.get("log_level") is LogLevel.warn and event.get("log_namespace") in _CONFIGURATION:
        _complain(f"warning: {formatEvent(event)}")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the documentation is made from it too."""
    parser = argparse.ArgumentParser(prog="barbtx-manage", description=__doc__.partition(": ")[2].capitalize())
    parser.add_argument(
        "--config-file",
        action="append",
        default=[],
        help=CONFIGURATION_HELP["config-file"],
    )
    parser.add_argument(
        "--config-dir",
        action="append",
        default=[],
        help=CONFIGURATION_HELP["config-dir"],
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="option; overrides the files"
    )
    parser.add_argument(
        "--version", action="version", version=f"barbtx {__version__}", help="print the version and exit"
    )
    categories = parser.add_subparsers(required=True, metavar="category")

    database = categories.add_parser("db", help="the database schema").add_subparsers(required=True, metavar="action")
    action = database.add_parser("upgrade", help="upgrade the schema")
    action.add_argument(
        "-v", "--version", default="head", help="schema version to upgrade to (default: the version of this release)"
    )
    action.add_argument("-d", "--db-url", help="URL of the database, instead of [database] connection")
    action.add_argument(
        "--wait",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="timeout for another upgrade of the same database to end (default: 600)",
    )
    action.set_defaults(run=_upgrade)
    current = database.add_parser("current", help="show the version of the schema")
    current.add_argument("-d", "--db-url", help="URL of the database, instead of [database] connection")
    current.set_defaults(run=_current)
    again = database.add_parser(
        "recount",
        help="count the secrets of all projects again; on PostgreSQL, where triggers maintain the counts, this is "
        "necessary after a restore of data only, or after changes while triggers were disabled",
    )
    again.add_argument("-d", "--db-url", help="URL of the database, instead of [database] connection")
    again.set_defaults(run=_recount)

    crypto = categories.add_parser("simple_crypto", help="keys of the simple_crypto plugin")
    generate = crypto.add_subparsers(required=True, metavar="action").add_parser(
        "gen_mkek", help="generate a master key (MKEK) in a new file that only its owner can read"
    )
    generate.add_argument("file", help="path of the file, which must not exist")
    generate.set_defaults(run=_generate)

    queue.add_commands(categories)

    policy = categories.add_parser("policy", help="policy rules").add_subparsers(required=True, metavar="action")
    check = policy.add_parser(
        "check",
        help="show each rule that grants access across projects or to private objects; exit status 3 if there are "
        "any, 1 if the rules are not valid",
    )
    check.set_defaults(run=_check_policy)

    removals.add_commands(categories)
    return parser


def _database_url(options: argparse.Namespace) -> str:
    conf = load(options.config_file, options.set)
    if not options.db_url:
        require(conf, options.config_file, "database", "connection")
    url: str = options.db_url or conf.database.connection
    return url


def _upgrade(options: argparse.Namespace) -> None:
    upgrade(_database_url(options), options.version, options.wait)


def _current(options: argparse.Namespace) -> None:
    version = current_version(_database_url(options), known_revisions())
    print(f"{version} (head)" if version == head_revision() else version or "none")


def _recount(options: argparse.Namespace) -> None:
    wrong = recount(_database_url(options))
    print(f"corrected the counts of {counted(wrong, 'project')}" if wrong else "all counts were right")


def _check_policy(options: argparse.Namespace) -> int:
    risks = list(find_risks(Policy.from_config(load(options.config_file, options.set))))
    for risk in risks:
        print(f"risk: {risk}")
    hint = "; policy-hardened.yaml removes those of the default rules" if risks else ""
    print(counted(len(risks), "risk") + hint)
    return 3 if risks else 0


def _generate(options: argparse.Namespace) -> None:
    try:
        descriptor = os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{options.file} exists; it was not overwritten") from None
    with open(descriptor, "w") as file:
        file.write(generate_master_key() + "\n")
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    sys.exit(main())
