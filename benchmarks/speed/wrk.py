"""Runs wrk, and reads what it says."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from benchmarks.speed.operations import Load
from tests.support.programs import find

_SCRIPT = Path(__file__).with_name("load.lua")
# Responses that take longer count as timeouts.
_TIMEOUT = 10


@attrs.frozen
class Sample:
    """One measurement.

    :ivar requests: responses, or orders that were processed.
    :ivar errors: by kind, without kinds that did not occur.
    :ivar cpu_ms: processor time for each request in milliseconds, by group of processes.
    """

    requests: int
    seconds: float
    p50_ms: float | None
    p99_ms: float | None
    errors: Mapping[str, int]
    cpu_ms: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def rate(self) -> float:
        """Requests/s."""
        return self.requests / self.seconds if self.seconds else 0.0


def program() -> str:
    """Return the path of wrk.

    :raises RuntimeError: it is not installed.
    """
    path = find("wrk")
    if path is None:
        raise RuntimeError("wrk is missing: apt-get install wrk")
    return path


def run(url: str, load: Load, connections: int, seconds: float, pace: Path | None = None) -> Sample:
    """Send requests for a time, each connection the next one as soon as it has the response. Blocks.

    wrk has one thread: more of them would take processors from the servers.

    :param seconds: wrk knows whole seconds only, and at least one.
    :param pace: a file with the milliseconds that each connection waits before its next request.
    """
    duration = max(1, round(seconds))
    with tempfile.NamedTemporaryFile("w", prefix="barbtx-load-", suffix=".txt") as file:
        file.writelines(f"{line}\n" for line in _lines(load, pace))
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{duration}s", f"--timeout={_TIMEOUT}s", f"--script={_SCRIPT}"]
        done = subprocess.run([program(), *options, url, "--", file.name], capture_output=True, text=True)
    result = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode or result is None:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    return _sample(json.loads(result.removeprefix("RESULT ")))


def _lines(load: Load, pace: Path | None) -> Iterator[str]:
    yield f"METHOD {load.method}"
    yield from (f"HEADER {name}: {value}" for name, value in load.headers.items())
    if load.body is not None:
        yield f"BODY {load.body}"
    yield from (f"PATH {path}" for path in load.paths)
    if pace is not None:
        yield f"PACE {pace}"


def _sample(result: Mapping[str, Any]) -> Sample:
    errors = {kind: count for kind, count in result["errors"].items() if count}
    return Sample(
        requests=result["requests"],
        seconds=result["microseconds"] / 1e6,
        p50_ms=result["p50"] / 1000,
        p99_ms=result["p99"] / 1000,
        errors=errors,
    )


def measure(used: Callable[[], Mapping[str, float]], send: Callable[[], Sample]) -> Sample:
    """Take a sample, with the processor time that groups of processes used meanwhile. Blocks.

    :param used: returns the seconds that each group has used so far.
    """
    before = used()
    sample = send()
    after = used()
    return with_cpu(sample, before, after)


def with_cpu(sample: Sample, before: Mapping[str, float], after: Mapping[str, float]) -> Sample:
    """Add the processor time for each request to a sample."""
    spent = {group: (after[group] - before[group]) * 1000 / max(sample.requests, 1) for group in after}
    return attrs.evolve(sample, cpu_ms=spent)
