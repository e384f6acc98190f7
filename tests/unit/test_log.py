"""JSON log lines."""

from __future__ import annotations

import io
import json

from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx.log import json_lines


def lines(emit) -> list[dict]:
    stream = io.StringIO()
    emit(Logger("test", observer=json_lines(stream)))
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_message_and_the_fields_of_its_event() -> None:
    (line,) = lines(lambda log: log.info("order {order_id}\nis due", order_id="o", request_id="req-1", thing=object()))
    assert line["message"] == "order o\nis due" and line["level"] == "info" and line["logger"] == "test"
    assert (line["order_id"], line["request_id"]) == ("o", "req-1") and "thing" not in line


def test_a_failure_has_its_traceback_but_no_local_variables() -> None:
    def emit(log: Logger) -> None:
        hidden = "a payload"
        try:
            raise ValueError(len(hidden))
        except ValueError:
            log.failure("failed", failure=Failure())

    (line,) = lines(emit)
    assert "ValueError: 9" in line["traceback"] and "= 'a payload'" not in line["traceback"]
