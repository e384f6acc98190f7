"""``barbtx-manage``: the schema, master keys, the policy, dead letters and the removal of projects."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from sqlalchemy import exc
from txamqp.client import Closed

from barbtx import __version__
from barbtx.cmd import queue, removals
from barbtx.config import load, locate, require
from barbtx.errors import ConfigurationError, NotFound, one_line
from barbtx.identity.policy import Policy
from barbtx.identity.policy_audit import find_risks
from barbtx.model.migration import head_revision, known_revisions
from barbtx.model.migration.ownership import current_version
from barbtx.model.migration.upgrade import upgrade
from barbtx.plugin.crypto.simple_crypto import generate_master_key
from barbtx.queue.amqp.one_shot import NoUsableBroker
from barbtx.queue.transport import PublishRefused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    options = make_parser().parse_args(arguments)
    options.config_file = locate(options.config_file, options.config_dir)
    try:
        status: int | None = options.run(options)
        return status or 0
    except ConfigurationError as problem:
        for line in problem.problems:
            print(f"barbtx-manage: {line}", file=sys.stderr)
        return 1
    except (NotFound, OSError, exc.DBAPIError, NoUsableBroker, PublishRefused, Closed) as problem:
        text = getattr(problem, "orig", None) or problem
        print(f"barbtx-manage: {one_line(text)}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the documentation is made from it too."""
    parser = argparse.ArgumentParser(prog="barbtx-manage", description=__doc__.partition(": ")[2].capitalize())
    parser.add_argument(
        "--config-file",
        action="append",
        default=[],
        help="a configuration file; without any, barbtx.conf in ~/.barbtx, ~, /etc/barbtx or /etc",
    )
    parser.add_argument(
        "--config-dir",
        action="append",
        default=[],
        help="a directory whose *.conf files count after the configuration files",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="an option; it wins over the files"
    )
    parser.add_argument("--version", action="version", version=f"barbtx {__version__}")
    categories = parser.add_subparsers(required=True, metavar="category")

    database = categories.add_parser("db", help="the database schema").add_subparsers(required=True, metavar="action")
    action = database.add_parser("upgrade", help="bring the schema to a version")
    action.add_argument("-v", "--version", default="head", help="the version (default: this release's)")
    action.add_argument("-d", "--db-url", help="the database, instead of the configured one")
    action.add_argument(
        "--wait",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long to wait for another upgrade of the same database (default: 600)",
    )
    action.set_defaults(run=_upgrade)
    current = database.add_parser("current", help="show the schema's version")
    current.add_argument("-d", "--db-url", help="the database, instead of the configured one")
    current.set_defaults(run=_current)

    crypto = categories.add_parser("simple_crypto", help="keys of the simple_crypto plugin")
    generate = crypto.add_subparsers(required=True, metavar="action").add_parser(
        "gen_mkek", help="make a master key in a new file that only its owner may read"
    )
    generate.add_argument("file", help="where to write it; must not exist")
    generate.set_defaults(run=_generate)

    queue.add_commands(categories)

    policy = categories.add_parser("policy", help="who may do what").add_subparsers(required=True, metavar="action")
    check = policy.add_parser(
        "check",
        help="name what the rules allow beyond a project or into what is private; "
        "exit status 3 if there is any, 1 if the rules have an error",
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


if __name__ == "__main__":
    sys.exit(main())
