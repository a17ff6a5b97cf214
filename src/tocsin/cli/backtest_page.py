"""The report of a backtest as one HTML file: tables and charts, with all that they need inside; it works offline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import Floats
from tocsin.cli.backtest import Backtest
from tocsin.cli.backtest_failure import FailureBacktest
from tocsin.cli.html import document

DRAWN_MAX = 10_000
"""Readings in the charts: the last ones of the series with the most; tables are about all."""
BLUE, GREY, BAND = "#1769c4", "#4d5b6c", "rgba(23,105,196,.13)"


def page(made: Backtest | FailureBacktest, name: str) -> str:
    """Returns the report on the data of this name."""
    charts = _charts(made) if isinstance(made, Backtest) else made.charts()
    for _, figure in charts:
        figure.update_layout(template="plotly_white", height=360, margin={"l": 60, "r": 20, "t": 20, "b": 40})
    return document(f"Backtest: {name}", [made.verdict()], made.tables(), charts)


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
    return [
        ("Actual and forecast", go.Figure(actual)),
        ("Residuals (actual less forecast)", go.Figure([line(residual, "residual", line={"width": 1})])),
        ("Residuals by size", go.Figure([go.Histogram(x=residual, nbinsx=80)])),
        (f"Share between the bounds in each 30 days (asked for: {made.coverage:g})", coverage),
    ]


def _drawn_rows(made: Backtest) -> Any:
    """Returns the places of the last scored readings of the series that has the most, in time order."""
    places = np.flatnonzero(made.scored)
    keys = made.keys.cast(pa.string()).take(pa.array(places))
    most = max(pa.compute.value_counts(keys).to_pylist(), key=lambda count: count["counts"])["values"]
    places = places[pa.compute.equal(keys, most).to_numpy(zero_copy_only=False)]
    return places[np.argsort(made.times[places], kind="stable")][-DRAWN_MAX:]
