"""A flame graph of the API process, by py-spy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.speed import wrk
from benchmarks.speed.operations import Operation
from benchmarks.speed.testbed import NOAUTH, Testbed
from tests.support.cluster import in_thread

_SAMPLES_A_SECOND = 250


def program() -> str:
    """Return the path of py-spy.

    :raises RuntimeError: it is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    path = str(beside) if beside.exists() else shutil.which("py-spy")
    if path is None:
        raise RuntimeError("py-spy is missing: pip install py-spy")
    return path


async def record(bed: Testbed, operation: Operation, connections: int, seconds: int, path: Path) -> None:
    """Write the flame graph of an API process that performs an operation. Nothing else is measured meanwhile.

    It shows what holds the interpreter's lock (GIL), in all threads: meanwhile no other thread runs Python.
    py-spy needs to be root, or kernel.yama.ptrace_scope = 0.

    :param path: the file for the graph, as SVG.
    """
    api = await bed.start_api(NOAUTH)
    try:
        load = operation.load(bed.ids, bed.identity(NOAUTH, operation.project))
        await in_thread(partial(wrk.run, api.url, load, connections, 1))
        command = [
            program(),
            "record",
            f"--pid={api.process.process.pid}",
            f"--duration={seconds}",
            f"--rate={_SAMPLES_A_SECOND}",
            "--format=flamegraph",
            "--gil",
            f"--output={path}",
        ]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            # wrk goes on a little longer, so that py-spy sees no idle process.
            await in_thread(partial(wrk.run, api.url, load, connections, seconds + 2))
        finally:
            _, errors = await in_thread(spy.communicate)
        if spy.returncode:
            raise RuntimeError(f"py-spy failed: {errors}")
        title = f"{operation.title}, {connections} connections: what holds the interpreter's lock"
        path.write_text(re.sub(r">[^<>]*py-spy record [^<]*<", f">{title}<", path.read_text()))
    finally:
        await in_thread(api.process.stop)
    await bed.drain()
