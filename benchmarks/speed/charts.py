"""The results of a run as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pygal
from pygal.style import Style

from benchmarks.speed.report import AUTHENTICATIONS
from benchmarks.speed.results import Row
from benchmarks.speed.rounds import HELLO, SILENT_HELLO
from benchmarks.speed.targets import CONNECTIONS

_PARTS = {"api": "API", "database": "database", "workers": "workers", "broker": "RabbitMQ"}
_WHITE = "#ffffff"
_COLORS = ("#2b6cb0", "#38a169", "#dd6b20", "#805ad5")
_TARGET = "#a0aec0"


def draw(rows: Sequence[Row]) -> dict[str, str]:
    """Return charts as SVG, by the last part of the names of their files."""
    rows = [row for row in rows if row.available and row.name not in (HELLO, SILENT_HELLO)]
    charts = {}
    for connections in CONNECTIONS:
        here = [row for row in rows if row.connections == connections]
        title = f"Requests/s at {connections} connections, in percent of hello's"
        charts[f"throughput-{connections}"] = _compare(title, here, lambda row: row.percent, "% of hello")
    most = [row for row in rows if row.connections == max(CONNECTIONS)]
    title = f"99th percentile at {max(CONNECTIONS)} connections, in units of hello's"
    charts["latency"] = _compare(
        title, [row for row in most if row.p99_units is not None], lambda row: row.p99_units, "p99 of hello's"
    )
    charts["cpu"] = _processor_time(most)
    return charts


def _compare(title: str, rows: Sequence[Row], figure: Callable[[Row], float | None], goal: str) -> str:
    """Draw a figure of each operation for each way of authentication, and its target."""
    titles = {row.name: row.title for row in rows}
    series: dict[str, dict[str, float | None]] = {
        label: {row.name: figure(row) for row in rows if row.auth == auth} for auth, label in AUTHENTICATIONS.items()
    }
    series = {label: found for label, found in series.items() if found}
    colors = _COLORS[: len(series)]
    targets = {row.name: each.target for row in rows for each in row.goals if each.what == goal}
    if targets:
        series["Target"] = dict(targets)
        colors = (*colors, _TARGET)
    chart = _bars(pygal.HorizontalBar, title, list(titles.values()), colors, print_values=True)
    for label, found in series.items():
        chart.add(label, [found.get(name) for name in reversed(titles)])
    return _render(chart)


def _processor_time(rows: Sequence[Row]) -> str:
    """Draw the processor time of each operation with the first way of authentication."""
    rows = [row for row in rows if row.auth == rows[0].auth and row.cpu_ms]
    title = f"Processor time at {max(CONNECTIONS)} connections, in ms for each request"
    chart = _bars(pygal.HorizontalStackedBar, title, [row.title for row in rows], _COLORS)
    for part, label in _PARTS.items():
        if any(part in row.cpu_ms for row in rows):
            chart.add(label, [row.cpu_ms.get(part) for row in reversed(rows)])
    return _render(chart)


def _bars(
    kind: type[pygal.Graph], title: str, labels: Sequence[str], colors: Sequence[str], *, print_values: bool = False
) -> pygal.Graph:
    style = Style(
        background=_WHITE,
        plot_background=_WHITE,
        colors=colors,
        opacity=1,
        font_family="sans-serif",
        value_font_size=11,
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=12,
        guide_stroke_dasharray="1,3",
        major_guide_stroke_dasharray="1,3",
    )
    chart = kind(
        title=title,
        style=style,
        js=(),
        width=800,
        height=140 + 45 * len(labels),
        legend_at_bottom=True,
        print_values=print_values,
        print_values_position="top",
        value_formatter=lambda value: f"{value:.3g}",
    )
    # pygal draws the first one at the bottom.
    chart.x_labels = list(reversed(labels))
    # Elements have it in their names: the same figures make the same file.
    chart.uuid = "chart"
    return chart


def _render(chart: pygal.Graph) -> str:
    """Return a chart as SVG, without the script that would make it interactive."""
    drawn = chart.render_tree()
    for element in drawn.iter():
        for script in [child for child in element if str(child.tag).endswith("script")]:
            element.remove(script)
        if element.get("class") == "value" and element.get("text-anchor"):
            # pygal centers the numbers on the ends of the bars.
            element.set("text-anchor", "start")
            element.set("dx", "4")
    return ElementTree.tostring(drawn, encoding="unicode")
