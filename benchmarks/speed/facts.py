"""What the figures of a run depend on: the machine, the programs and their settings."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.speed import wrk
from benchmarks.speed.testbed import Testbed
from tests.support.service import ROOT

# PostgreSQL's and MariaDB's settings that decide whether a committed transaction survives a crash, with the values
# under which it does.
_DURABLE = {
    "postgresql": {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"},
    "mariadb": {"innodb_flush_log_at_trx_commit": "1"},
    "sqlite": {},
}


def gather(bed: Testbed) -> dict[str, str]:
    """Return the facts by their names. Blocks.

    :raises RuntimeError: the database's commits are not durable.
    """
    settings = {name: bed.setting(name) for name in _DURABLE[bed.kind]}
    if settings != _DURABLE[bed.kind]:
        raise RuntimeError(f"commits are not durable: {settings}")
    packages = ", ".join(f"{name} {version(name)}" for name in ("Twisted", "klein", "SQLAlchemy"))
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "processor": f"{_processor()}, {psutil.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"Linux {platform.release()}, load average {os.getloadavg()[0]:.1f} before the run",
        "Python": f"{platform.python_version()}, {packages}",
        "database": f"{_database(bed)} on {bed.filesystem()}"
        + "".join(f", {name} = {value}" for name, value in settings.items()),
        "wrk": _output(wrk.program(), "-v").partition("[")[0].removeprefix("wrk").strip(),
    }


def _commit() -> str:
    # The checkout may be a copy without its history.
    number = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD").strip() or "unknown"
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no").strip()
    return f"{number} with changes" if changed else number


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _database(bed: Testbed) -> str:
    if bed.kind == "sqlite":
        with bed.engine.connect() as connection:
            return f"SQLite {connection.exec_driver_sql('SELECT sqlite_version()').scalar()}"
    name = "PostgreSQL" if bed.kind == "postgresql" else "MariaDB"
    return f"{name} {bed.setting('server_version' if bed.kind == 'postgresql' else 'version')}"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""
