"""`tocsin backtest` of a failure probability: whether what it says happens, on rows that came after its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tocsin.batch import Floats, Ints, floats
from tocsin.cli.backtest import MONTH_US, run_steps, since_us
from tocsin.cli.data_file import read_data, time_column
from tocsin.cli.score import as_stream, read_steps
from tocsin.errors import ConfigError
from tocsin.estimate.failure_probability import FailureProbability
from tocsin.models.dataset import told
from tocsin.models.proof import Flags, figures, reliability


@dataclass(frozen=True)
class FailureBacktest:
    """What was said of the rows that judge, and what happened; arrays of shape (rows,)."""

    of: str
    """The column with what happened."""
    horizon_us: int
    times: Ints
    outcome: Flags
    said: Mapping[str, Floats]
    """Probabilities by name; the model that is judged stands first."""
    since_us: int

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.said)

    def tables(self) -> Sequence[tuple[str, pa.Table]]:
        """Returns the tables of a report, each with its title."""
        within = f" within {self.horizon_us / 3.6e9:g} h" if self.horizon_us else ""
        said = f"'{self.of}'{within}, {len(self.times):,} rows from {told(self.since_us)} on"
        overall = [{"model": n, **figures(self.outcome, p), "failing": self.outcome.mean()} for n, p in
                   self.said.items()]  # fmt: skip
        return (
            (said, pa.Table.from_pylist(overall)),
            (f"{self.names[0]}: what it said and what happened", pa.Table.from_pylist(self.reliability())),
            (f"{self.names[0]}, each 30 days", self.by_month()),
        )

    def reliability(self) -> list[dict[str, Any]]:
        """Returns one row for each range of probability: said in the mean, happened, and the latter's 90 % interval."""
        return reliability(self.outcome, self.said[self.names[0]])

    def by_month(self) -> pa.Table:
        """Returns one row for each 30 days from ``since`` on; the last may be shorter."""
        numbers, own = (self.times - self.since_us) // MONTH_US, self.said[self.names[0]]
        rows = []
        for number in np.unique(numbers):
            within = numbers == number
            rows.append({
                "from": told(self.since_us + int(number) * MONTH_US), "rows": int(within.sum()),
                "said": own[within].mean(), "happened": self.outcome[within].mean(),
                **figures(self.outcome[within], own[within]),
            })  # fmt: skip
        return pa.Table.from_pylist(rows)

    def verdict(self) -> str:
        """Returns in a sentence whether it is better than the best of the plain methods."""
        brier = {name: figures(self.outcome, values)["brier"] for name, values in self.said.items()}
        first, *plain = self.names
        best = min(plain, key=lambda name: brier[name])
        better = "better" if brier[first] < brier[best] else "NOT better"
        return f"{first} is {better} than {best}: Brier score {brier[first]:.4g} against {brier[best]:.4g}"

    def charts(self) -> list[tuple[str, Any]]:
        """Returns the reliability plot and how often which probability was said, with their titles."""
        import plotly.graph_objects as go

        rows = self.reliability()
        said, happened = ([row[name] for row in rows] for name in ("said", "happened"))
        reach = {"symmetric": False, "array": [row["upper"] - row["happened"] for row in rows],
                 "arrayminus": [row["happened"] - row["lower"] for row in rows]}  # fmt: skip
        count = [f"{row['rows']:,} rows" for row in rows]
        drawn = go.Figure([
            go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot"}, name="as it should be"),
            go.Scatter(x=said, y=happened, error_y=reach, text=count, mode="lines+markers", name=self.names[0]),
        ])  # fmt: skip
        drawn.update_xaxes(title="said", range=[0, 1])
        drawn.update_yaxes(title="happened", range=[0, 1])
        histogram = go.Figure([go.Histogram(x=self.said[self.names[0]], nbinsx=50)])
        histogram.update_yaxes(type="log")
        titles = "Reliability: how often it happened when so much was said", "How often which probability was said"
        return list(zip(titles, (drawn, histogram), strict=True))


def backtest_failure(
    job: Path, data: Path, since: str | None = None, time: str | None = None, key: str | None = None
) -> FailureBacktest:
    """Run steps that end with `failure_probability` over a file that has the column the model foretells.

    Raises
    ------
    ConfigError
        The column is not there, ``since`` lies in what taught the model, or nothing is left to judge.
    """
    *before, step = read_steps(job)
    assert isinstance(step, FailureProbability)
    manifest = step.predictor.manifest
    table = read_data(data)
    prepared = run_steps(before, as_stream(table, time_column(table, time), key))
    if manifest.target not in prepared.column_names:
        raise ConfigError(
            f"{data}: no column '{manifest.target}' reaches {step.name()}; a backtest needs what happened, as the "
            "query of the training gives it"
        )
    if not prepared.num_rows:
        raise ConfigError(f"{data}: no row reaches {step.name()}")
    whole = run_steps([step], prepared.combine_chunks().to_batches()[0])
    times = whole["time"].cast(pa.int64()).to_numpy()
    first = since_us(str(manifest.data["test_from"]), times)
    begin = first if since is None else since_us(since, times)
    if begin < first:
        raise ConfigError(
            f"--since {since}: rows before {told(first)} taught the model or calibrated it; judge it "
            "by those from then on"
        )
    horizon = int(manifest.settings["horizon_us"])
    own = whole["failure_probability"].to_numpy()
    happened = floats(whole[manifest.target].combine_chunks())
    # What follows the last rows is not known.
    counts = np.isfinite(own) & np.isfinite(happened) & (times >= begin) & (times + horizon <= times.max())
    if not counts.any():
        raise ConfigError(f"{data}: from {told(begin)} on no row has a probability and an outcome; give later rows")
    features = np.stack([floats(whole[name].combine_chunks()) for name in manifest.inputs], axis=1)
    plain = step.predictor.logistic.probability(features[counts])
    said = {
        f"{manifest.name} {manifest.version}": own[counts],
        "logistic": plain,
        "base_rate": np.full(int(counts.sum()), float(manifest.settings["base_rate"])),
    }
    return FailureBacktest(manifest.target, horizon, times[counts], happened[counts] == 1, said, begin)
