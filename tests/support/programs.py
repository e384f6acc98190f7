"""The programs that the tests need beside Python: finds them, or says what to install.

Run as a command it installs Debian's packages where it may.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys

PACKAGES = {
    "postgres": "postgresql",
    "initdb": "postgresql",
    "pg_dump": "postgresql",
    "pg_restore": "postgresql",
    "rabbitmq-server": "rabbitmq-server",
    "epmd": "rabbitmq-server",
    "rabbitmqctl": "rabbitmq-server",
    "libfaketime.so.1": "libfaketime",
    "mariadbd": "mariadb-server",
    "curl": "curl",
    "pgbouncer": "pgbouncer",
    "mariadb-install-db": "mariadb-server",
}
# Debian's own rabbitmq-server in the PATH insists on being the rabbitmq user; the one behind it does not.
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/lib/rabbitmq/bin", "/usr/lib/*/faketime", "/usr/sbin", "/usr/bin")


def find(program: str) -> str | None:
    """The path of a program, if it is installed."""
    for place in _PLACES:
        for path in sorted(glob.glob(os.path.join(place, program)), reverse=True):
            if os.access(path, os.R_OK):
                return path
    return shutil.which(program)


def require(program: str) -> str:
    """The path of a program.

    :raises RuntimeError: it is not installed.
    """
    path = find(program)
    if path is None:
        raise RuntimeError(f"{program} is missing: apt-get install {PACKAGES[program]}")
    return path


def main() -> int:
    missing = sorted({package for program, package in PACKAGES.items() if find(program) is None})
    if not missing:
        return 0
    if os.geteuid() != 0:
        print(
            f"The tests need programs that are not here. As root: apt-get install {' '.join(missing)}", file=sys.stderr
        )
        return 1
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update"], check=True, env=environment)
    subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *missing], check=True, env=environment)
    still = [program for program in PACKAGES if find(program) is None]
    if still:
        print(f"Still missing after the installation: {', '.join(still)}", file=sys.stderr)
    return bool(still)


if __name__ == "__main__":
    sys.exit(main())
