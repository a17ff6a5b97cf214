"""Forecasts of a measured series, beside the last reading on the same hours."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from data_folder import DATA

from tocsin.batch import Floats
from tocsin.estimate.forecast import Forecast
from tocsin.testing import feed, rows

FILE = DATA / "beijing_pm25" / "PRSA_data_2010-2013.csv"
YEAR_H, MONTH_H = 8760, 720


@pytest.mark.skipif(not FILE.exists(), reason="needs the PM2.5 series, see tests/data_folder.py")
def test_ahead_on_pm25() -> None:
    words = pa.csv.ConvertOptions(null_values=["NA"])
    table = pa.csv.read_csv(FILE, convert_options=words).slice(0, 2 * YEAR_H).combine_chunks()
    weather = ("DEWP", "TEMP", "PRES", "Iws", "Is", "Ir")
    columns = {name: table[name].combine_chunks() for name in weather}
    columns |= {wind: pa.compute.equal(table["cbwd"].combine_chunks(), wind) for wind in ("NE", "NW", "SE")}
    reading = table["pm2.5"].combine_chunks()
    given = rows({"value": reading, **columns}, every_s=3600)

    def judged(step: Forecast) -> dict[str, Floats]:
        left = feed(step, given, chop=1000).slice(YEAR_H)
        return {name: left[name].to_numpy() for name in ("y", "yhat", "yhat_lower", "yhat_upper")}

    ridge = judged(Forecast(every="1h", season=24, inputs=tuple(columns)))
    last = judged(Forecast(every="1h", method="persistence"))
    scored = ~np.isnan(last["y"]) & ~np.isnan(last["yhat"])
    rmse = [np.sqrt(np.mean((said["yhat"] - said["y"])[scored] ** 2)) for said in (ridge, last)]
    assert rmse[1] == pytest.approx(23.41, abs=0.01)
    assert rmse[0] < 0.93 * rmse[1]
    far = [judged(Forecast(every="1h", method="persistence", horizon=horizon)) for horizon in (6, 24)]
    far.append(judged(Forecast(every="1h", season=24, inputs=("TEMP", "DEWP"), horizon=24)))
    for said in (ridge, last, *far):
        scored = ~np.isnan(said["y"]) & ~np.isnan(said["yhat_lower"])
        inside = (said["y"] >= said["yhat_lower"]) & (said["y"] <= said["yhat_upper"])
        begins = [*range(0, YEAR_H - MONTH_H, MONTH_H), YEAR_H - MONTH_H]
        months = [inside[at : at + MONTH_H][scored[at : at + MONTH_H]].mean() for at in begins]
        assert 0.89 < inside[scored].mean() < 0.91
        assert min(months) > 0.87
        assert max(months) < 0.93
