"""Permissions of the files of an SQLite database: only their owner may access them, regardless of the umask."""

from __future__ import annotations

import os
import stat
import threading
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import event
from sqlalchemy.engine import Engine
from twisted.logger import Logger

log = Logger()


def keep_private(engine: Engine) -> None:
    """Before the first connection, create the database file with mode 600 or restrict the mode of existing files.

    SQLite gives the files that it creates next to it the same mode.
    """
    path = _path_of(engine)
    if path is None:
        return
    lock, done = threading.Lock(), threading.Event()

    @event.listens_for(engine, "do_connect")
    def restrict_once(*_: Any) -> None:
        # On POSIX, closing any descriptor of a file drops all locks that the process holds on it, so that this must not
        # happen once there are other connections.
        with lock:
            if not done.is_set():
                _create(path)
                _restrict(path)
                done.set()


def _path_of(engine: Engine) -> str | None:
    name = engine.url.database
    if not name or name == ":memory:":
        return None
    return unquote(urlsplit(name).path) if name.startswith("file:") else name


def _create(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        # The file exists, or it cannot be created, which SQLite reports.
        return


def _restrict(path: str) -> None:
    for name in (path, f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        try:
            mode = stat.S_IMODE(os.stat(name).st_mode)
            if mode & 0o077:
                os.chmod(name, mode & 0o700)
                log.warn(
                    "{path} was accessible to other users; its mode is now {mode}", path=name, mode=oct(mode & 0o700)
                )
        except FileNotFoundError:
            continue
        except OSError as problem:
            log.warn(
                "{path} is accessible to other users, and its mode cannot be changed: {reason}",
                path=name,
                reason=problem.strerror,
            )
