"""The files of an SQLite database are for their owner only, whatever the umask."""

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
    """Before the first connection, make the file if there is none, and take the rights of others from those there are.

    SQLite gives the files that it makes beside it the same mode.
    """
    path = _path_of(engine)
    if path is None:
        return
    lock, done = threading.Lock(), threading.Event()

    @event.listens_for(engine, "do_connect")
    def before(*_: Any) -> None:
        # To close a descriptor of the file drops the locks that this process has on it (POSIX): so not while there may
        # be other connections.
        with lock:
            if not done.is_set():
                _create(path)
                _tighten(path)
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
        # It is there, or cannot be made, which SQLite itself will say.
        return


def _tighten(path: str) -> None:
    for name in (path, f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        try:
            mode = stat.S_IMODE(os.stat(name).st_mode)
            if mode & 0o077:
                os.chmod(name, mode & 0o700)
                log.warn("{path} could be read by others; its mode is now {mode}", path=name, mode=oct(mode & 0o700))
        except FileNotFoundError:
            continue
        except OSError as problem:
            log.warn(
                "{path} can be read by others, and that cannot be changed: {reason}", path=name, reason=problem.strerror
            )
