"""The rows that the speed benchmark makes of its measurements."""

from __future__ import annotations

import json

import pytest

from benchmarks.speed import report
from benchmarks.speed.operations import NAMES, OPERATIONS
from benchmarks.speed.results import Row, make_rows
from benchmarks.speed.rounds import HELLO, PAIR_SUFFIX, Measurement
from benchmarks.speed.targets import CONNECTIONS, TARGETS
from benchmarks.speed.wrk import Sample


def measured(name: str, rate: float, number: int = 1, p99: float = 10, **errors: int) -> Measurement:
    return Measurement("noauth", number, name, 64, Sample(int(rate), 1, 1, p99, errors, {"api": 0.1}))


def row_of(name: str, *measurements: Measurement, database: str = "postgresql", **arguments: object) -> Row:
    given = {"wanted": (), "baseline": {}, **arguments}
    return next(row for row in make_rows(measurements, database, **given) if row.name == name)


def test_every_operation_has_targets_for_its_connections() -> None:
    assert {operation.name for operation in OPERATIONS} < set(TARGETS)
    for operation in OPERATIONS:
        assert set(TARGETS[operation.name].percent) == set(CONNECTIONS)


def test_a_round_is_compared_with_its_own_hello() -> None:
    """When the machine becomes slower in one round, the relative figure stays the same."""
    row = row_of(
        "payload",
        *(measured(HELLO, 900, 1), measured("payload", 800, 1), measured(HELLO, 1100, 1)),
        *(measured(HELLO, 100, 2, p99=100), measured("payload", 80, 2, p99=200), measured(HELLO, 100, 2, p99=100)),
        *(measured(HELLO, 1000, 3), measured("payload", 800, 3, p99=20), measured(HELLO, 1000, 3)),
    )
    assert row.rate == 800
    assert row.percent == pytest.approx(80)
    assert row.p99_units == 2
    assert row.met is True


def test_a_target_is_missed_by_the_slower_or_by_the_latency() -> None:
    hello = measured(HELLO, 1000)
    assert row_of("payload", hello, measured("payload", 749)).met is False
    assert row_of("payload", hello, measured("payload", 750, p99=31)).met is False
    assert row_of("payload", hello, measured("payload", 750, p99=30)).met is True


def test_errors_of_all_rounds_are_counted() -> None:
    row = row_of(
        "store",
        *(measured(HELLO, 1000, 1), measured("store", 500, 1, status=2)),
        *(measured(HELLO, 1000, 2), measured("store", 500, 2, status=3, timeout=1)),
    )
    assert row.errors == {"status": 5, "timeout": 1}


def test_two_processes_are_compared_with_one() -> None:
    name = f"payload{PAIR_SUFFIX}"
    row = row_of(name, measured(HELLO, 1000), measured("payload", 500), measured(name, 800))
    (goal,) = row.goals
    assert goal.measured == 1.6 and goal.met


def test_what_the_product_cannot_do_has_a_row_without_figures() -> None:
    row = row_of(f"secret{PAIR_SUFFIX}", measured(HELLO, 1000), measured("secret", 500), wanted=NAMES)
    assert not row.available and row.met is None


def test_other_databases_are_compared_with_an_earlier_run() -> None:
    """Relative to hello, so that it may have been on a slower machine."""
    hello = measured(HELLO, 1000)
    before = report.as_json(
        report.Run("sqlite", "", 1, 1, {}, (), make_rows([hello, measured("payload", 100)], "sqlite", (), {}))
    )
    baseline = report.read_baseline(before)
    found = (measured(HELLO, 2000), measured("payload", 500))
    row = row_of("payload", *found, database="sqlite", baseline=baseline)
    (goal,) = row.goals
    assert goal.measured == 2.5 and not goal.met


def test_the_json_has_every_measurement_and_the_verdicts() -> None:
    measurements = [measured(HELLO, 1000), measured("payload", 800)]
    rows = make_rows(measurements, "postgresql", (), {})
    document = json.loads(report.as_json(report.Run("postgresql", "", 1, 1, {}, measurements, rows)))
    assert [each["rate"] for each in document["measurements"]] == [1000, 800]
    assert [row["met"] for row in document["rows"]] == [None, True]
