"""Ending threads that may never end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from twisted.python.threadpool import ThreadPool


def end_pools(pools: Iterable[ThreadPool], seconds: float) -> bool:
    """Let thread pools finish what they have and end, but wait for all of them together only so long.

    ``ThreadPool.stop`` waits without a limit, so that each pool is stopped from a thread of its own.

    :return: whether all threads have ended. Those that have not go on, and hold up the interpreter's own end.
    """
    stopping = [threading.Thread(target=pool.stop, name=f"{pool.name}-stop", daemon=True) for pool in pools]
    for thread in stopping:
        thread.start()
    end = time.monotonic() + seconds
    for thread in stopping:
        thread.join(max(0.0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in stopping)
