"""Filters of lists of secrets, from a query string to conditions."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barbtx.api.schemas.secret_list import read_conditions
from barbtx.errors import InvalidQuery

_TIMES = ("created", "updated", "expiration")
_MOMENTS = st.datetimes(datetime.datetime(1000, 1, 1), datetime.datetime(9998, 1, 1))
_OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes)))


@given(st.sampled_from(["name", "alg", "mode"]), st.text(min_size=1))
def test_text_is_not_decoded_again(parameter: str, text: str) -> None:
    (condition,) = read_conditions({parameter: text})
    assert (condition.comparison, condition.value) == ("like", text)


@given(_MOMENTS, _OFFSETS, st.sampled_from(_TIMES), st.sampled_from(["", "gt:", "gte:", "lt:", "lte:"]), st.booleans())
def test_the_zone_of_a_time_counts(
    moment: datetime.datetime, zone: datetime.timezone, parameter: str, prefix: str, encoded: bool
) -> None:
    text = moment.replace(tzinfo=datetime.UTC).astimezone(zone).isoformat()
    if not encoded:
        text = text.replace("+", " ")
    (condition,) = read_conditions({parameter: prefix + text})
    assert (condition.column, condition.value) == (parameter, moment)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-01-02", "2026-01-02T00:00"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05"),
        ("2026-01-02 03:04", "2026-01-02T03:04"),
        ("2026-01-02 03:04:05 01:00", "2026-01-02T02:04:05"),
        ("20260102T030405 0130", "2026-01-02T01:34:05"),
        ("2026-01-02T03 01", "2026-01-02T02:00"),
        ("2026-01-02T03:04:05.5-00:30", "2026-01-02T03:34:05.500000"),
    ],
)
def test_times_in_all_their_forms(text: str, value: str) -> None:
    (condition,) = read_conditions({"created": f"gt:{text}"})
    assert condition.value == datetime.datetime.fromisoformat(value)


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2026-01-02T03:04:05 25:00",
        "2026-01-02T03:04:05  01:00",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-01-02T03:04:05+01:00x",
        "2026-01-02 03:04 05 06",
    ],
)
def test_what_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery):
        read_conditions({"expiration": text})
