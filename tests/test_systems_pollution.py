"""What examples/pollution is made of, whole and by its parts: the device, the edge process, the detector model."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from data_folder import DATA
from deltalake import DeltaTable
from servers import free_port

import tocsin
import tocsin.edge.device
from tocsin.errors import ConfigError
from tocsin.models.dataset import Dataset
from tocsin.models.forecaster import Forecaster
from tocsin.models.store import Store
from tocsin.models.train import Training
from tocsin.models.training import read_training
from tocsin.notify.detector_model import DetectorModel
from tocsin.testing import feed, rows

pytestmark = pytest.mark.timeout(900)
FOLDER = Path(__file__).parent.parent / "examples" / "pollution"
HEADER = "date,pollution,dew,temp,press,wnd_dir,wnd_spd,snow,rain\n"
SAMPLE = DATA / "beijing_pm25" / "pollution_sample.csv"
HISTORY, WINDOW, HOURS = 1000, 24, 9


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"{SAMPLE} is not there")
def test_replayed_kept_trained_deployed_inferred_and_told(tmp_path: Path) -> None:
    """Device -> table -> data set by SQL -> LSTM -> edge process -> forecasts by a trigger -> the detector model."""
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "everything.py"), str(SAMPLE), "--history", str(HISTORY), "--hours", str(HOURS),
         "--epochs", "1", "--folder", str(tmp_path), "--port", str(free_port())],
        capture_output=True, text=True, timeout=880,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sent = readings(HISTORY + WINDOW + HOURS)
    kept = tocsin.read("pollution", tmp_path / "lake").sort_by("time").to_pylist()
    assert [(row["time"], row["pollution"], row["dew"]) for row in kept] == [
        (row["date"], row["pollution"], row["dew"]) for row in sent
    ]

    store = Store(tmp_path / "models")
    manifest = store.show("pollution")
    assert (manifest.window, manifest.target, manifest.settings["cell"]) == (WINDOW, "pollution", "lstm")
    assert (manifest.data["rows"], {"persistence", "seasonal_naive"} <= manifest.baselines.keys()) == (HISTORY, True)
    version = manifest.data["tables"]["pollution"]
    taught = DeltaTable(tmp_path / "lake" / "pollution", version).to_pyarrow_table().sort_by("time")
    assert taught["time"].to_pylist() == [row["date"] for row in sent[:HISTORY]]

    told = [line.partition(": ")[::2] for line in done.stdout.splitlines() if line.startswith("pollution/")]
    answers = [json.loads(payload) for topic, payload in told if topic == "pollution/data/infer"]
    model = Forecaster.open(store, "pollution", 1)
    windows = [[[row[name] for name in model.manifest.inputs] for row in sent[at - WINDOW : at]] for at in
               range(HISTORY + WINDOW, len(sent))]  # fmt: skip
    forecast = model.predict(np.array(windows, float))
    assert [(datetime.fromisoformat(one["date"]), one["actual_pollution"]) for one in answers] == [
        (row["date"], row["pollution"]) for row in sent[HISTORY + WINDOW :]
    ]
    assert [one["predicted_pollution"] for one in answers] == pytest.approx(forecast.tolist())
    inferred = tocsin.read("inferred", tmp_path / "lake").sort_by("time")
    assert inferred["predicted_pollution"].to_pylist() == [one["predicted_pollution"] for one in answers]

    wrong = np.cumsum([abs(one["predicted_pollution"] / one["actual_pollution"] - 1) > 0.1 for one in answers])
    at = 6  # it looks at what it has counted before this forecast, once that is more than five
    assert wrong[at - 1] > 0.1 * at, "the forecasts are too good for this test"
    message = f"{wrong[at]} of {at + 1} forecasts are more than 10 % off"
    assert [payload for topic, payload in told if topic == "pollution/data/model/accuracy"] == [message]
    assert tocsin.read("accuracy", tmp_path / "lake")["payload"].to_pylist() == [message]


def readings(count: int) -> list[dict[str, Any]]:
    """The first hours of the sample; an hour whose reading is 0 has none."""
    with open(SAMPLE, newline="") as file:
        given = [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]
    numbers = [{name: float(text) for name, text in row.items() if name not in ("date", "wnd_dir")} for row in given]
    dates = [datetime.fromisoformat(f"{row['date']}+00:00") for row in given]
    assert dates == [dates[0] + i * timedelta(hours=1) for i in range(count)]
    return [
        row | {"date": date, "pollution": row["pollution"] or None} for row, date in zip(numbers, dates, strict=True)
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (Is a directory)"),
        (HEADER + "2010-01-02 00:00:00,129.0,-16,-4,1020,2,1.79,0,0\n", "holds 1 of the 20,048 hours"),
    ],
)
def test_a_file_that_is_of_no_use_ends_it_all(
    content: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The device says what is wrong, and the script does not wait for one that has ended."""
    given = tmp_path / "given.csv"
    given.mkdir() if content is None else given.write_text(content)
    arguments = ["everything.py", str(given), "--folder", str(tmp_path / "made"), "--port", str(free_port())]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        script("everything").main()
    assert isinstance(ended.value.code, str)  # which Python tells, with exit status 1
    of_device = capfd.readouterr().err
    assert said in of_device + ended.value.code
    assert "Traceback" not in of_device
    assert bool(of_device) == ("the device ended (exit status 1)" in ended.value.code)


def test_a_command_that_fails_ends_it_all_after_what_it_said(capfd: pytest.CaptureFixture[str]) -> None:
    fails = [sys.executable, "-c", "raise SystemExit('nothing to train on; give more rows')"]
    with pytest.raises(SystemExit) as ended:
        script("everything").carry_out("training", *fails)
    assert ended.value.code == "training ended (exit status 1); what it said stands above"
    assert capfd.readouterr().err == "nothing to train on; give more rows\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("time,value\n2010-01-02,1\n", "with columns date, pollution, dew, .*, rain: there is no 'date'"),
        (HEADER + "2010-01-02 00:00:00,129.0,-16,warm,1020,2,1.79,0,0\n", "could not convert string to float: 'warm'"),
        (HEADER + "2010-01-02 00:00:00,129.0\n", "a row of it has no number in 'dew'"),
        ("\0", "holds no row"),
    ],
)
def test_the_device_says_what_is_wrong_with_its_file(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ConfigError, match=said):
        script("device").messages(tmp_path / "a.csv")


def script(name: str) -> ModuleType:
    """A file of the example as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_device_sends_what_the_pipeline_and_the_edge_read(tmp_path: Path) -> None:
    device = script("device")
    (tmp_path / "a.csv").write_text(
        HEADER
        + "2010-01-02 00:00:00,129.0,-16,-4.0,1020.0,2,1.79,0,0\n2010-01-02 01:00:00,0.0,-15,-4,1020,2,2.68,0,0\n"
    )
    first, second = map(json.loads, device.messages(tmp_path / "a.csv"))
    assert first["date"] == "2010-01-02T00:00:00Z"
    assert (first["pollution"], second["pollution"]) == (129.0, None)
    training = read_training(FOLDER / "train.yaml", {})
    assert isinstance(training, Training)
    dataset: Dataset = training.dataset
    settings = tocsin.edge.device.DeviceSettings.read(FOLDER / "edge.json")
    assert first.keys() == {*dataset.inputs, settings.time_field}
    assert settings.answer.keys() == {"predicted_pollution", "actual_pollution", "date"}


def test_the_detector_model_tells_when_forecasts_are_no_longer_good() -> None:
    good, bad = [100.0] * 10, [80.0] * 3
    given = rows({"predicted_pollution": [100.0] * 13, "actual_pollution": good + bad})
    left = feed(DetectorModel(model=str(FOLDER / "accuracy.json")), given).to_pylist()
    told = [row for row in left if row["action"] == "iotTopicPublish"]
    assert [(row["target"], row["payload"]) for row in told] == [
        ("pollution/data/model/accuracy", "3 of 13 forecasts are more than 10 % off")
    ]
