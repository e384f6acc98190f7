"""Checks of an SQLite database file before it is opened. SQLite itself would create a missing file."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import URL

from barbtx.errors import ConfigurationError

_MAGIC = b"SQLite format 3\0"


def check_file(url: URL) -> None:
    """Check that the file of an SQLite URL exists and can be used. Other URLs are not checked. The call blocks.

    :raises ConfigurationError: the file cannot be used; the text gives the reason.
    """
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return
    path = Path(name).absolute()
    try:
        if not path.parent.is_dir():
            raise ConfigurationError(f"[database] connection: there is no directory {path.parent}")
        if not path.exists():
            raise ConfigurationError(
                f"[database] connection: there is no file {path}: run 'barbtx-manage db upgrade' to make it"
            )
        if not path.is_file():
            raise ConfigurationError(f"[database] connection: {path} is not a file")
        # SQLite creates the write-ahead log in the same directory.
        for needed in (path, path.parent):
            if not os.access(needed, os.R_OK | os.W_OK):
                raise ConfigurationError(f"[database] connection: {needed} cannot be read and written by this user")
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as problem:
        raise ConfigurationError(f"[database] connection: {path}: {problem.strerror}") from None
    if start and start != _MAGIC:
        raise ConfigurationError(f"[database] connection: {path} is not an SQLite database")
