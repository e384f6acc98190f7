"""The results of a run as text: a table for the terminal, Markdown for the documentation, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from benchmarks.speed.results import Key, Row
from benchmarks.speed.rounds import Measurement

_HEADINGS = (
    "operation",
    "connections",
    "per s",
    "% of hello",
    "p50 ms",
    "p99 ms",
    "p99 / hello's",
    "API ms",
    "DB ms",
    "workers ms",
    "errors",
    "target",
    "met",
)
AUTHENTICATIONS = {"noauth": "Without authentication", "keystone": "With Keystone, the token cached"}
_LEGEND = (
    "Medians of {rounds} rounds; each measurement takes {seconds} s. hello is a bare Klein application in one process, "
    "with an access log, measured before and after the operations of each round; relative figures are medians of the "
    "rounds' own. API, DB and workers are the processor time of these processes for one request."
)


@attrs.frozen
class Run:
    """A run: what it was, and what it found."""

    database: str
    command: str
    rounds: int
    seconds: int
    facts: Mapping[str, str]
    measurements: Sequence[Measurement]
    rows: Sequence[Row]

    @property
    def has_errors(self) -> bool:
        """Whether any request failed."""
        return any(row.errors for row in self.rows)


def terminal(run: Run) -> str:
    """Return the results as a table of text."""
    parts = []
    for auth, rows in _by_authentication(run.rows):
        lines = [_HEADINGS, *(_cells(row) for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
        table = "\n".join("  ".join(_pad(line, widths)).rstrip() for line in lines)
        parts.append(f"{AUTHENTICATIONS[auth]}, {run.database}:\n\n{table}\n")
    return "\n".join(parts)


def markdown(run: Run, charts: Iterable[str]) -> str:
    """Return the results as Markdown without headings, for any place in a document.

    :param charts: names of files with charts.
    """
    lines = [f"`{run.command}` on {run.database}.", _LEGEND.format(rounds=run.rounds, seconds=run.seconds), ""]
    lines += [f"- {name}: {value}" for name, value in run.facts.items()]
    for auth, rows in _by_authentication(run.rows):
        lines += ["", f"{AUTHENTICATIONS[auth]}:", "", _line(_HEADINGS)]
        lines.append(_line("---" if column == 0 else "--:" for column in range(len(_HEADINGS))))
        lines += [_line(_cells(row)) for row in rows]
    lines += [part for name in charts for part in ("", f"![{name.removesuffix('.svg')}]({name})")]
    if run.has_errors:
        lines += ["", "**Requests failed in this run: its figures do not count.**"]
    return "\n".join(lines) + "\n"


def as_json(run: Run) -> str:
    """Return everything as JSON, each measurement included."""
    document = attrs.asdict(run, value_serializer=_plain)
    for row, shown in zip(run.rows, document["rows"], strict=True):
        shown["met"] = row.met
    for measurement, shown in zip(run.measurements, document["measurements"], strict=True):
        shown["rate"] = measurement.sample.rate
    return json.dumps(document, indent=1) + "\n"


def read_baseline(text: str) -> dict[Key, float]:
    """Return the percent of hello that the rows of an earlier run had.

    :param text: what :func:`as_json` returned.
    """
    rows: list[dict[str, Any]] = json.loads(text)["rows"]
    return {(row["auth"], row["name"], row["connections"]): row["percent"] for row in rows if row["available"]}


def _plain(instance: object, field: object, value: object) -> object:
    if isinstance(value, float):
        return round(value, 4)
    return dict(value) if isinstance(value, Mapping) else value


def _by_authentication(rows: Sequence[Row]) -> Iterable[tuple[str, list[Row]]]:
    for auth in AUTHENTICATIONS:
        if found := [row for row in rows if row.auth == auth]:
            yield auth, found


def _cells(row: Row) -> tuple[str, ...]:
    start = (row.title, str(row.connections))
    if not row.available:
        return (*start, "not available", *[""] * (len(_HEADINGS) - len(start) - 1))
    return (
        *start,
        f"{row.rate:.0f}",
        f"{row.percent:.1f}",
        _number(row.p50_ms, 1),
        _number(row.p99_ms, 1),
        _number(row.p99_units, 2),
        *(_number(row.cpu_ms.get(group), 3) for group in ("api", "database", "workers")),
        ", ".join(f"{count} {kind}" for kind, count in row.errors.items()) or "0",
        "; ".join(f"{'≤' if goal.at_most else '≥'} {goal.target:g} {goal.what}" for goal in row.goals),
        _verdict(row),
    )


def _verdict(row: Row) -> str:
    if row.errors:
        return "ERRORS"
    if row.met is None:
        return ""
    missed = [f"{goal.measured:.3g} {goal.what}" for goal in row.goals if not goal.met]
    return f"NO: {', '.join(missed)}" if missed else "yes"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _pad(line: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    for column, (cell, width) in enumerate(zip(line, widths, strict=True)):
        yield cell.rjust(width) if 0 < column < 10 else cell.ljust(width)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
