"""How much processor time processes have used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import psutil


def used(groups: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Return the seconds that each group of processes has used so far, by name of the group.

    :param groups: ids of the groups' processes, without their children, which count too, even if they have ended.
    """
    return {name: sum(_used_by_tree(number) for number in numbers) for name, numbers in groups.items()}


def _used_by_tree(number: int) -> float:
    root = psutil.Process(number)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            # Children that have ended are in their parent's times, if it has asked for their exit status.
            total += times.user + times.system + times.children_user + times.children_system
    return total
