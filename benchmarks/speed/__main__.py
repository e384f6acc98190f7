"""How fast barbtx is, in units of a bare Klein application on the same machine.

Starts private servers (PostgreSQL with durable commits, RabbitMQ), two workers, an API process, a stub of Keystone and
hello, and has wrk send requests to hello and to barbtx in turn, in rounds, with 8 and with 64 connections. Prints the
medians and whether the targets (benchmarks/speed/targets.py) are met, and writes them as Markdown and JSON, with charts
as SVG, into a directory. With the default options it takes about a quarter of an hour.

Exit status: 0 if all requests succeeded, whether or not the targets are met; 1 if any request failed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks.speed import facts, flame, report, wrk
from benchmarks.speed.operations import NAMES, OPERATIONS, PAIR, PAIRED
from benchmarks.speed.results import make_rows
from benchmarks.speed.rounds import Measurement, Plan, Rounds
from benchmarks.speed.targets import CONNECTIONS
from benchmarks.speed.testbed import DATABASES, KEYSTONE, NOAUTH, Testbed
from tests.support.cluster import in_thread
from tests.support.service import ROOT


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=_positive, default=3, help="how often everything is measured (default: %(default)s)")
    add("--seconds", type=_positive, default=5, help="duration of each measurement, in whole seconds (default: 5)")
    add("--warm-up", type=int, default=1, help="seconds of the same load before each measurement (default: 1)")
    add("--database", choices=DATABASES, default="postgresql", help="default: %(default)s")
    add(
        "--auth",
        choices=(NOAUTH, KEYSTONE, "both"),
        default="both",
        help="how callers are authenticated: not at all, by Keystone with a token that is cached, or both in turn "
        "(default: %(default)s)",
    )
    add(
        "--operations",
        type=_names,
        default=NAMES,
        metavar="NAME,NAME",
        help=f"what to measure (default: all): {', '.join(NAMES)}",
    )
    add(
        "--other",
        type=_pair("="),
        action="append",
        default=[],
        metavar="NAME=URL",
        help="also measure GET of this URL, which another server has; may be repeated",
    )
    add(
        "--other-header",
        type=_pair(":"),
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="a header for the requests to other servers; may be repeated",
    )
    add(
        "--baseline",
        type=Path,
        metavar="JSON",
        help="JSON of an earlier run on SQLite or MariaDB, whose figures the targets for these databases refer to",
    )
    add(
        "--profile",
        nargs="?",
        const="payload",
        choices=[operation.name for operation in OPERATIONS],
        metavar="OPERATION",
        help="after the measurements, also write a flame graph of the API process that performs this operation with "
        "64 connections (default: payload)",
    )
    add("--output", type=Path, default=Path("build/speed"), help="directory for the files (default: %(default)s)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _names(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(NAMES)):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    # Two processes are compared with one.
    return tuple(name for name in NAMES if name in names or (PAIR in names and name in PAIRED))


def _pair(separator: str) -> Any:
    def parse(text: str) -> tuple[str, str]:
        name, found, value = text.partition(separator)
        if not (name and found and value):
            raise argparse.ArgumentTypeError(f"must have the form NAME{separator}VALUE")
        return name, value.strip()

    return parse


async def measure(reactor: Any, options: argparse.Namespace) -> report.Run:
    """Run everything that the command line asks for."""
    plan = Plan(
        options.rounds,
        options.seconds,
        options.warm_up,
        options.operations,
        dict(options.other),
        dict(options.other_header),
    )
    baseline = report.read_baseline(options.baseline.read_text()) if options.baseline else {}
    measurements: list[Measurement] = []
    bed = Testbed(options.database)
    # After Ctrl-C this coroutine does not go on. Threads that start processes have ended when this is called.
    reactor.addSystemEventTrigger("after", "shutdown", bed.kill)
    await bed.start()
    known = await in_thread(lambda: facts.gather(bed))
    for auth in (NOAUTH, KEYSTONE) if options.auth == "both" else (options.auth,):
        measurements += await Rounds(bed, auth, plan, _say).run()
    if options.profile:
        operation = next(each for each in OPERATIONS if each.name == options.profile)
        path = options.output / f"speed-{options.database}-profile-{operation.name}.svg"
        await flame.record(bed, operation, max(CONNECTIONS), max(options.seconds, 2), path.absolute())
    rows = make_rows(measurements, options.database, options.operations, baseline)
    command = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    return report.Run(options.database, command, options.rounds, options.seconds, known, measurements, rows)


def write(run: report.Run, directory: Path) -> list[Path]:
    """Write the files; their paths."""
    # Here, so that --help and its errors need no further package.
    from benchmarks.speed import charts

    drawn = {f"speed-{run.database}-{name}.svg": text for name, text in charts.draw(run.rows).items()}
    profiles = sorted(path.name for path in directory.glob(f"speed-{run.database}-profile-*.svg"))
    files = {
        f"speed-{run.database}.md": report.markdown(run, drawn),
        f"speed-{run.database}.json": report.as_json(run),
        **drawn,
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    return [directory / name for name in (*files, *profiles)]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Run the command."""
    options = make_parser().parse_args()
    # The processes run the code of this checkout, whatever is installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        wrk.program()
        if find_spec("pygal") is None:
            raise RuntimeError("pygal is missing: pip install pygal")
        if options.profile:
            flame.program()
        options.output.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        sys.exit(str(error))

    async def run(reactor: Any) -> None:
        found = await measure(reactor, options)
        print(report.terminal(found))
        print("\n".join(str(path) for path in write(found, options.output)))
        if found.has_errors:
            sys.exit("requests failed: the figures do not count")
        finished.append(found)

    finished: list[report.Run] = []
    try:
        react(lambda reactor: Deferred.fromCoroutine(run(reactor)))
    except SystemExit as end:
        if not finished and not end.code:
            sys.exit("interrupted")
        raise


if __name__ == "__main__":
    main()
