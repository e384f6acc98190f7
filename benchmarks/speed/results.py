"""From measurements to rows: medians, units of hello, and whether the targets are met."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import attrs

from benchmarks.speed.operations import DONE, OPERATIONS, PAIR, PAIRED
from benchmarks.speed.rounds import HELLO, OTHER_PREFIX, PAIR_SUFFIX, SILENT_HELLO, Measurement
from benchmarks.speed.targets import AGAINST_BASELINE, CONNECTIONS, TARGETS, TWO_PROCESSES, Goal
from benchmarks.speed.wrk import Sample

#: Rows by the names that they have in a baseline.
Key = tuple[str, str, int]
_TITLES = {
    HELLO: "hello",
    SILENT_HELLO: "hello, no access log",
    **{operation.name: operation.title for operation in OPERATIONS},
    DONE: "orders done",
    **{f"{each.name}{PAIR_SUFFIX}": f"{each.title}, 2 processes" for each in OPERATIONS if each.name in PAIRED},
}
_KINDS = {DONE: "write", **{operation.name: operation.kind for operation in OPERATIONS}}


@attrs.frozen
class Row:
    """The medians of one operation's rounds.

    :ivar percent: requests/s in percent of hello's, and
    :ivar p99_units: the 99th percentile in units of hello's: medians of what each round has.
    :ivar errors: of all rounds.
    :ivar available: whether the product can do this at all; if not, there are no figures.
    """

    auth: str
    name: str
    title: str
    connections: int
    rate: float = 0.0
    percent: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    p99_units: float | None = None
    cpu_ms: Mapping[str, float] = attrs.field(factory=dict)
    errors: Mapping[str, int] = attrs.field(factory=dict)
    goals: tuple[Goal, ...] = ()
    available: bool = True

    @property
    def met(self) -> bool | None:
        """Whether all targets are met; None if there are none."""
        return all(goal.met for goal in self.goals) if self.goals else None


def make_rows(
    measurements: Sequence[Measurement], database: str, wanted: Iterable[str], baseline: Mapping[Key, float]
) -> list[Row]:
    """Make the rows of a run.

    :param wanted: names of the operations that should be there.
    :param baseline: percent of hello in an earlier run.
    """
    references = _references(measurements)
    samples: dict[Key, list[Measurement]] = {}
    for each in measurements:
        samples.setdefault((each.auth, each.name, each.connections), []).append(each)
    rows = []
    for key, group in samples.items():
        row = _row(key, group, references)
        rows.append(attrs.evolve(row, goals=tuple(_goals(row, group, samples, database, baseline))))
    if PAIR in wanted and not any(row.name.endswith(PAIR_SUFFIX) for row in rows):
        auths = dict.fromkeys(row.auth for row in rows)
        rows += [
            Row(auth, f"{name}{PAIR_SUFFIX}", _TITLES[f"{name}{PAIR_SUFFIX}"], connections, available=False)
            for auth in auths
            for name in PAIRED
            for connections in CONNECTIONS
        ]
    order = [*_TITLES]
    return sorted(rows, key=lambda row: (order.index(row.name) if row.name in order else len(order), -row.connections))


@attrs.frozen
class Reference:
    """What hello did in one round: the means of the measurements before and after the operations."""

    rate: float
    p99_ms: float


References = Mapping[tuple[str, int, int], Reference]


def _references(measurements: Iterable[Measurement]) -> References:
    """Return what hello did, by authentication, round and connections."""
    groups: dict[tuple[str, int, int], list[Sample]] = {}
    for each in measurements:
        if each.name == HELLO:
            groups.setdefault((each.auth, each.round, each.connections), []).append(each.sample)
    return {
        key: Reference(
            statistics.mean(sample.rate for sample in samples),
            statistics.mean(sample.p99_ms or 0 for sample in samples),
        )
        for key, samples in groups.items()
    }


def _row(key: Key, group: Sequence[Measurement], references: References) -> Row:
    auth, name, connections = key
    samples = [each.sample for each in group]
    hello = [references[each.auth, each.round, each.connections] for each in group]
    errors: dict[str, int] = {}
    for sample in samples:
        for kind, count in sample.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    p50, p99 = ([getattr(sample, name) for sample in samples] for name in ("p50_ms", "p99_ms"))
    has_latency = None not in p99
    return Row(
        auth,
        name,
        _TITLES.get(name, name.removeprefix(OTHER_PREFIX)),
        connections,
        rate=statistics.median(sample.rate for sample in samples),
        percent=statistics.median(100 * sample.rate / each.rate for sample, each in zip(samples, hello, strict=True)),
        p50_ms=statistics.median(p50) if has_latency else None,
        p99_ms=statistics.median(p99) if has_latency else None,
        p99_units=(
            statistics.median(time / each.p99_ms for time, each in zip(p99, hello, strict=True))
            if has_latency
            else None
        ),
        cpu_ms={part: statistics.median(sample.cpu_ms[part] for sample in samples) for part in samples[0].cpu_ms},
        errors=errors,
    )


def _goals(
    row: Row,
    group: Sequence[Measurement],
    samples: Mapping[Key, Sequence[Measurement]],
    database: str,
    baseline: Mapping[Key, float],
) -> Iterable[Goal]:
    if row.name.endswith(PAIR_SUFFIX):
        single = samples[row.auth, row.name.removesuffix(PAIR_SUFFIX), row.connections]
        ratio = statistics.median(two.sample.rate / one.sample.rate for two, one in zip(group, single, strict=True))
        yield Goal("times one process", ratio, TWO_PROCESSES[row.connections])
        return
    target = TARGETS.get(row.name)
    if database == "postgresql" and target is not None:
        yield Goal("% of hello", row.percent, target.percent[row.connections])
        if row.p99_units is not None and target.p99 is not None and row.connections == max(CONNECTIONS):
            yield Goal("p99 of hello's", row.p99_units, target.p99, at_most=True)
    before = baseline.get((row.auth, row.name, row.connections))
    if database != "postgresql" and target is not None and before:
        yield Goal("times the baseline", row.percent / before, AGAINST_BASELINE[_KINDS[row.name]])
