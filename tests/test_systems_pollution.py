"""What examples/pollution is made of: the device's messages, the edge's answers, the detector model over them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import tocsin.edge.device
from tocsin.models.dataset import Dataset
from tocsin.models.train import Training
from tocsin.models.training import read_training
from tocsin.notify.detector_model import DetectorModel
from tocsin.testing import feed, rows

FOLDER = Path(__file__).parent.parent / "examples" / "pollution"
HEADER = "date,pollution,dew,temp,press,wnd_dir,wnd_spd,snow,rain\n"


def test_the_device_sends_what_the_pipeline_and_the_edge_read(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("device", FOLDER / "device.py")
    assert spec is not None
    assert spec.loader is not None
    device = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(device)
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
