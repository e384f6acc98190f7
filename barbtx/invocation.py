"""How a process was started, for processes that start others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen
class Invocation:
    """How a process was started.

    :ivar files: the configuration files.
    :ivar settings: the arguments of ``--set``.
    :ivar twistd: twistd's options.
    :ivar write: writes lines to the log that another process has formatted.
    """

    files: Sequence[str]
    settings: Sequence[str]
    twistd: Mapping[str, Any]
    write: Callable[[str], None]
