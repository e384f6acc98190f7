"""Checks of the permissions of files that contain secrets or control access.

A file is unsafe if users other than its owner and this process's user can write it, or can read it although it contains
secrets. The group of a file counts as other users, unless it is root's group or the private group of the owner or of
this process's user: the group of the same name, without further members.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from oslo_config import cfg
from twisted.logger import Logger

from barbtx.errors import ConfigurationError

log = Logger()

OPTIONS = {
    "DEFAULT": [
        cfg.BoolOpt(
            "allow_group_readable_keys",
            default=False,
            help="Whether the group of a master key file may have read permission, as with fsGroup in Kubernetes. By "
            "default only the owner may. With true, every member of the group can read the master keys.",
        ),
    ],
}


def write_problems(path: str | os.PathLike[str]) -> list[str]:
    """Return the permissions that let other users change a file or replace it, one line each.

    Symbolic links are followed; the directories of the link and of its target are checked. A file that belongs to
    another user only causes a warning in the log, because only root can give a file away, and a umask cannot.

    :raises OSError: the file or its directory does not exist or is not accessible.
    """
    problems = []
    status = os.stat(path)
    if who := _writers(status):
        problems.append(f"{path}: writable by {who}; run chmod go-w on it")
    if status.st_uid not in (0, os.geteuid()):
        log.warn(
            "{path} belongs to the user {owner}, who can change it; change its owner to root or to this process's user",
            path=str(path),
            owner=_user_name(status.st_uid),
        )
    for directory in dict.fromkeys((Path(os.path.abspath(path)).parent, Path(os.path.realpath(path)).parent)):
        status = os.stat(directory)
        if not status.st_mode & stat.S_ISVTX and (who := _writers(status)):
            problems.append(f"{directory}: {who} can replace {path}; run chmod go-w on the directory")
    return problems


def _writers(status: os.stat_result) -> str | None:
    if status.st_mode & stat.S_IWOTH:
        return "other users"
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid, status.st_uid):
        return f"the group {_group_name(status.st_gid)}"
    return None


def _is_private_group(gid: int, owner: int) -> bool:
    if gid == 0:
        return True
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return gid in (owner, os.geteuid())
    names = {_user_name(uid) for uid in (owner, os.geteuid())}
    return group.gr_name in names and set(group.gr_mem) <= {group.gr_name}


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def others_may_read(path: str | os.PathLike[str]) -> bool:
    """Whether every user of this machine has read permission.

    :raises OSError: the file does not exist or is not accessible.
    """
    return bool(os.stat(path).st_mode & stat.S_IROTH)


def read_key_file(path: str, *, group_may_read: bool) -> str:
    """Read a file with keys.

    :param group_may_read: whether the group may have read permission.
    :raises ConfigurationError: other users have read or write permission, or the file is not text.
    :raises OSError: the file cannot be read.
    """
    with open(path, encoding="utf-8") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077
        if mode and not (mode == stat.S_IRGRP and group_may_read):
            hint = (
                ""
                if mode & ~stat.S_IRGRP
                else ", or set [DEFAULT] allow_group_readable_keys if its group is meant to read it"
            )
            raise ConfigurationError(f"{path}: other users can read or write this key file; run chmod 600 on it{hint}")
        # These are only warnings: replaced keys prevent the startup but reveal nothing, and tools that mount keys into
        # a container leave the directory writable.
        for problem in write_problems(path):
            log.warn("{problem}", problem=problem)
        try:
            return file.read()
        except UnicodeDecodeError:
            raise ConfigurationError(f"{path}: not a key file") from None
