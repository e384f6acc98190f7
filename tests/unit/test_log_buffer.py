"""Lines that wait for others before they are written."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from barbtx.log_buffer import LineBuffer


class Written:
    """What a buffer has written, and how often."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.clock = Clock()
        self.buffer = LineBuffer(self.clock, self.texts.append)

    def log(self, *lines: str, urgent: bool = False) -> None:
        for line in lines:
            self.buffer.write(line, urgent=urgent)


@pytest.fixture
def written() -> Written:
    return Written()


def test_lines_are_written_together_after_50_ms(written: Written) -> None:
    written.buffer.start()
    written.log("a\n")
    written.clock.advance(0.04)
    written.log("b\n")
    assert written.texts == []
    written.clock.advance(0.01)
    assert written.texts == ["a\nb\n"]
    written.log("c\n")
    written.clock.advance(0.05)
    assert written.texts == ["a\nb\n", "c\n"] and not written.clock.getDelayedCalls()


def test_an_urgent_line_is_written_at_once_after_those_that_wait(written: Written) -> None:
    written.buffer.start()
    written.log("a\n")
    written.log("b\n", urgent=True)
    assert written.texts == ["a\nb\n"]


def test_no_more_than_64_ki_characters_wait(written: Written) -> None:
    written.buffer.start()
    for _ in range(1000):
        written.log("x" * 999 + "\n")
    assert written.texts and max(map(len, written.texts)) < 65536 + 1000
    assert 1_000_000 - sum(map(len, written.texts)) < 65536


def test_a_line_of_another_thread_is_written_at_once_after_those_that_wait(written: Written) -> None:
    written.buffer.start()
    written.log("a\n")
    thread = threading.Thread(target=written.log, args=["b\n"])
    thread.start()
    thread.join()
    assert written.texts == ["a\nb\n"]


def test_no_line_waits_before_the_start_and_after_the_stop(written: Written) -> None:
    written.log("a\n")
    assert written.texts == ["a\n"]
    written.buffer.start()
    written.log("b\n")
    written.buffer.stop()
    assert written.texts == ["a\n", "b\n"]
    written.log("c\n")
    assert written.texts == ["a\n", "b\n", "c\n"] and not written.clock.getDelayedCalls()
    written.buffer.stop()


def failing_once(texts: list[str]) -> Callable[[str], None]:
    def write(text: str) -> None:
        texts.append(text)
        if len(texts) == 1:
            raise OSError("no space left")

    return write


def test_lines_that_cannot_be_written_do_not_stay() -> None:
    texts: list[str] = []
    buffer = LineBuffer(Clock(), failing_once(texts))
    buffer.start()
    buffer.write("a\n", urgent=False)
    with pytest.raises(OSError, match="no space"):
        buffer.write("b\n", urgent=True)
    buffer.write("c\n", urgent=True)
    assert texts == ["a\nb\n", "c\n"]


def test_a_line_that_is_logged_during_a_write_is_not_lost() -> None:
    texts: list[str] = []

    def write(text: str) -> None:
        texts.append(text)
        if text == "a\n":
            # The garbage collector may log at any point.
            buffer.write("during\n", urgent=True)

    buffer = LineBuffer(Clock(), write)
    buffer.start()
    buffer.write("a\n", urgent=True)
    assert texts == ["a\n", "during\n"]
