"""The distribution for devices: what it holds is enough to run, and it asks for nothing large."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tocsin.edge.bundle import pack
from tocsin.estimate.model import EXAMPLE
from tocsin.models.store import Store

ROOT = Path(__file__).parent.parent.parent
KEY = bytes(range(32))
RUN = """
import json, sys
from pathlib import Path
import tocsin
from tocsin.edge import __main__
from tocsin.edge.device import Device, DeviceSettings
device = Device(DeviceSettings.read(Path("edge.json")))
assert device.take(Path("tide.bundle").read_bytes())
for line in Path("readings").read_text().splitlines():
    device.hear(line.encode())
answers = len(list(device.spool.waiting()))
device.spool.close()
names = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"answers": answers, "from": tocsin.__file__, "modules": names}))
"""
LARGE = {"pyarrow", "duckdb", "numba", "llvmlite", "pydantic", "plotly", "jax", "polars", "pandas", "click", "rich"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (made,) = WheelBuilder(str(ROOT / "packaging" / "edge")).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    return Path(made)


def test_it_runs_a_model_by_the_files_of_its_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path / "installed")
    (tmp_path / "edge.key").write_bytes(KEY)
    (tmp_path / "tide.bundle").write_bytes(pack(Store(EXAMPLE), "tide", 1, KEY, 1))
    (tmp_path / "edge.json").write_text(json.dumps({"key": "edge.key", "folder": "edge-data"}))
    given = [{"time": 1_600_000_000 + 1.5 * at, "value": 20 + math.sin(at * math.pi / 6)} for at in range(12)]
    (tmp_path / "readings").write_text("\n".join(map(json.dumps, given)))
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["answers"] == len(given)
    assert told["from"].startswith(str(tmp_path))
    assert not LARGE & set(told["modules"])


def test_it_asks_for_numpy_and_onnxruntime_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        (name,) = (name for name in content.namelist() if name.endswith("METADATA"))
        told = message_from_bytes(content.read(name))
    wanted = [need for need in told.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert sorted(need.partition("<")[0].partition(">")[0] for need in wanted) == ["numpy", "onnxruntime"]
