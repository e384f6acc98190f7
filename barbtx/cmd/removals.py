"""``barbtx-manage removals``: the pending removals of projects that were deleted in Keystone."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from typing import Any, TypeVar

from oslo_config import cfg
from sqlalchemy.orm import Session

from barbtx.cmd.counting import counted
from barbtx.config import load, require
from barbtx.model.engine import make_engine
from barbtx.model.migration import check_schema
from barbtx.model.records import Removal
from barbtx.model.repositories.pending_removals import cancel_removal, list_removals, retry_removal
from barbtx.times import WallClock, utcnow

T = TypeVar("T")


def add_commands(categories: Any) -> None:
    """Add the commands of the category ``removals``."""
    removals = categories.add_parser("removals", help="pending removals of projects that were deleted in Keystone")
    actions = removals.add_subparsers(required=True, metavar="action")
    show = actions.add_parser("list", help="show each removal: project, state, due time, reason of a delay or failure")
    show.set_defaults(run=_list)
    for name, run, summary in (
        (
            "cancel",
            _cancel,
            "cancel a removal: the remaining objects of the project are kept, and new ones can be created",
        ),
        ("retry", _retry, "retry a failed or delayed removal now, or when it is due if that is later"),
    ):
        action = actions.add_parser(name, help=summary)
        action.add_argument("project", help="Keystone id of the project")
        action.set_defaults(run=run)


def state_of(removal: Removal, now: datetime.datetime, max_attempts: int) -> str:
    """Return the state of a removal: removed, failed, running, unconfirmed, due or pending.

    :param max_attempts: attempts after which a removal has failed.
    """
    if removal.kept_until is not None:
        return "removed"
    if removal.attempts >= max_attempts:
        return "failed"
    if removal.leased_until is not None and removal.leased_until > now:
        return "running"
    if removal.due is None:
        return "unconfirmed"
    return "due" if removal.due <= now else "pending"


def _list(options: argparse.Namespace) -> None:
    conf = _configuration(options)
    now = utcnow(WallClock())
    shown = [
        removal for removal in _transact(conf, list_removals) if removal.kept_until is None or removal.kept_until > now
    ]
    for removal in shown:
        state = state_of(removal, now, conf.keystone_notifications.max_attempts)
        until = removal.kept_until or removal.due
        print(f"{removal.project_id}\t{state}\t{_time(until) if until else '-'}\t{removal.problem or '-'}")
    print(counted(len(shown), "removal"))


def _cancel(options: argparse.Namespace) -> None:
    now = utcnow(WallClock())
    conf = _configuration(options)
    removal = _transact(conf, lambda session: cancel_removal(session, options.project))
    if removal.kept_until is not None:
        said = "project {} was removed; new objects can be created in it again"
    elif removal.due is not None and removal.due <= now:
        said = "the removal of project {} is cancelled; it was due, and some of the objects may be deleted already"
    else:
        said = "the removal of project {} is cancelled; all objects of the project are kept"
    print(said.format(options.project))


def _retry(options: argparse.Namespace) -> None:
    now = utcnow(WallClock())
    removal = _transact(_configuration(options), lambda session: retry_removal(session, options.project, now))
    when = _time(removal.due) if removal.due is not None and removal.due > now else "now"
    print(f"the removal of project {options.project} will be retried {when}")


def _time(moment: datetime.datetime) -> str:
    return f"{moment.isoformat('T', 'seconds')}Z"


def _configuration(options: argparse.Namespace) -> cfg.ConfigOpts:
    conf = load(options.config_file, options.set)
    require(conf, options.config_file, "database", "connection")
    return conf


def _transact(conf: cfg.ConfigOpts, work: Callable[[Session], T]) -> T:
    """Run work in one transaction. The call blocks.

    :raises ConfigurationError: the schema of the database is not that of this release.
    """
    engine = make_engine(conf.database.connection, 1, conf.database.timeout_seconds)
    try:
        with Session(engine) as session:
            check_schema(session)
        with Session(engine, expire_on_commit=False) as session:
            session.connection(execution_options={"barbtx_write": True})
            result = work(session)
            session.commit()
            return result
    finally:
        engine.dispose()
