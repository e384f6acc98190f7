"""How many orders are processed in a second while as many are placed."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from sqlalchemy import select
from twisted.internet.defer import Deferred

from barbtx.model import models
from benchmarks.speed import wrk
from benchmarks.speed.operations import ORDER
from benchmarks.speed.testbed import Testbed
from tests.support.cluster import in_thread, pause
from tests.support.service import Api

# With so many orders pending, each connection waits a second before it places the next one.
_MANY = 2000
# Seconds until placing and processing are in balance.
_SETTLING = 3.0


async def measure(bed: Testbed, api: Api, auth: str, connections: int, seconds: float) -> wrk.Sample:
    """Place orders for AES keys, and count those that become ACTIVE.

    The more orders are pending, the longer the connections wait between two orders, so that the number of pending
    orders settles: the workers always have work, and what is placed is processed.
    """
    load = ORDER.load((), bed.identity(auth, ORDER.project))
    with tempfile.TemporaryDirectory(prefix="barbtx-pace-") as directory:
        pace = Path(directory) / "milliseconds"
        pace.write_text("0")
        send = partial(wrk.run, api.url, load, connections, seconds + _SETTLING + 1, pace)
        placing = Deferred.fromCoroutine(in_thread(send))
        try:
            await _hold_pace(bed, pace, placing, _SETTLING)
            before, ended, start = bed.used(api), await in_thread(lambda: _ended(bed)), time.monotonic()
            await _hold_pace(bed, pace, placing, seconds)
            after, ended_after, end = bed.used(api), await in_thread(lambda: _ended(bed)), time.monotonic()
        finally:
            # Further orders would only have to be waited for.
            pace.write_text("10000")
            placed = await placing
    await bed.drain()
    failed = ended_after["ERROR"] - ended["ERROR"]
    sample = wrk.Sample(
        requests=ended_after["ACTIVE"] - ended["ACTIVE"],
        seconds=end - start,
        p50_ms=None,
        p99_ms=None,
        errors={**placed.errors, **({"failed orders": failed} if failed else {})},
    )
    return wrk.with_cpu(sample, before, after)


async def _hold_pace(bed: Testbed, pace: Path, placing: Deferred[wrk.Sample], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not placing.called:
        pending = await in_thread(bed.pending)
        pace.write_text(f"{1000 * min(pending / _MANY, 1) ** 2:.0f}")
        await pause(0.05)


def _ended(bed: Testbed) -> dict[str, int]:
    order = models.Order
    return {status: bed.count(select(order.id).where(order.status == status)) for status in ("ACTIVE", "ERROR")}
