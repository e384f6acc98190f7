"""Settings of Python's garbage collector for a process that runs for a long time."""

from __future__ import annotations

import gc

# Objects after which the youngest generation is collected, and collections after which the next older one is. A request
# leaves a few reference cycles; the defaults would look for them some hundred times a second.
_THRESHOLDS = (20_000, 20, 50)


def settle() -> None:
    """Exempt the objects that exist now, such as modules and the schema, from collection, and collect less often.

    It is to be called once, when a process has made what it keeps until its end.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
