"""The report of a backtest as one HTML file: tables and charts, with all that they need inside; it works offline."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import Floats
from tocsin.cli.backtest import Backtest, tables
from tocsin.values.text import printable

DRAWN_MAX = 10_000
"""Readings in the charts: the last ones of the series with the most; tables are about all."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c2733 }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .8rem; border-bottom: 1px solid #d8dee6; text-align: right }
td:first-child, th:first-child { text-align: left }
.verdict { font-size: 1.1rem; font-weight: 600 }
"""
BLUE, GREY, BAND = "#1769c4", "#4d5b6c", "rgba(23,105,196,.13)"


def page(made: Backtest, name: str) -> str:
    """Returns the report on the data of this name."""
    from plotly.offline import get_plotlyjs

    heading = f"Backtest: {escape(printable(name))}"
    parts = [f"<h1>{heading}</h1>", f'<p class="verdict">{escape(made.verdict())}</p>']
    parts += [f"<h2>{escape(printable(title))}</h2>{_table(table)}" for title, table in tables(made)]
    charts = "".join(f"<h2>{title}</h2>{_drawn(figure)}" for title, figure in _charts(made))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head><body>{''.join(parts)}{charts}</body></html>\n"
    )


def _table(table: pa.Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.column_names)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row.values()) + "</tr>"
        for row in table.to_pylist()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _drawn(figure: Any) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False))


def _charts(made: Backtest) -> list[tuple[str, Any]]:
    """Actual against forecast, residuals over time, residuals by size, coverage of each 30 days; with their titles."""
    import plotly.graph_objects as go

    rows = _drawn_rows(made)
    said, y = made.said[made.names[0]], made.y[rows]
    times = made.times[rows].astype("datetime64[us]")
    residual = y - said.yhat[rows]

    def line(values: Floats, name: str, **style: Any) -> Any:
        return go.Scatter(x=times, y=values, name=name, mode="lines", **style)

    actual = [
        line(said.lower[rows], "lower", line={"width": 0}, showlegend=False, hoverinfo="skip"),
        line(said.upper[rows], "bounds", line={"width": 0}, fill="tonexty", fillcolor=BAND),
        line(y, "actual", line={"color": GREY, "width": 1}),
        line(said.yhat[rows], "forecast", line={"color": BLUE, "width": 1}),
    ]
    months = made.by_month()
    covered = go.Scatter(x=months["from"].to_pylist(), y=months["covered"].to_pylist(), mode="lines+markers")
    coverage = go.Figure([covered])
    coverage.add_hline(y=made.coverage, line={"color": GREY, "dash": "dot"})
    coverage.update_yaxes(range=[min(0.5, *months["covered"].to_pylist()), 1])
    figures = [
        ("Actual and forecast", go.Figure(actual)),
        ("Residuals (actual less forecast)", go.Figure([line(residual, "residual", line={"width": 1})])),
        ("Residuals by size", go.Figure([go.Histogram(x=residual, nbinsx=80)])),
        (f"Share between the bounds in each 30 days (asked for: {made.coverage:g})", coverage),
    ]
    for _, figure in figures:
        figure.update_layout(template="plotly_white", height=360, margin={"l": 60, "r": 20, "t": 20, "b": 40})
    return figures


def _drawn_rows(made: Backtest) -> Any:
    """Returns the places of the last scored readings of the series that has the most, in time order."""
    places = np.flatnonzero(made.scored)
    keys = made.keys.cast(pa.string()).take(pa.array(places))
    most = max(pa.compute.value_counts(keys).to_pylist(), key=lambda count: count["counts"])["values"]
    places = places[pa.compute.equal(keys, most).to_numpy(zero_copy_only=False)]
    return places[np.argsort(made.times[places], kind="stable")][-DRAWN_MAX:]
