"""Stopping thread pools with a timeout."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from twisted.python.threadpool import ThreadPool


def end_pools(pools: Iterable[ThreadPool], seconds: float) -> bool:
    """Let thread pools finish their work and stop them, with one timeout for all of them.

    ``ThreadPool.stop`` waits without a limit, so each pool is stopped from a separate thread.

    :param seconds: the timeout.
    :return: whether all threads have ended. Threads that have not ended go on, and block the exit of the interpreter.
    """
    stopping = [threading.Thread(target=pool.stop, name=f"{pool.name}-stop", daemon=True) for pool in pools]
    for thread in stopping:
        thread.start()
    end = time.monotonic() + seconds
    for thread in stopping:
        thread.join(max(0.0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in stopping)
