"""Waiting for lines in the logs of processes."""

from __future__ import annotations

from twisted.internet.task import deferLater

from tests.support.service import Process


async def logged(process: Process, text: str, times: int = 1, since: int = 0) -> None:
    """Wait until a text is in the log of a process, that many times at least.

    :param since: characters at the beginning of the log that do not count.
    """
    from twisted.internet import reactor

    end = reactor.seconds() + 120
    while process.read_log().count(text, since) < times:
        assert reactor.seconds() < end, process.read_log()
        await deferLater(reactor, 0.05, lambda: None)
