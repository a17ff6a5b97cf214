"""The robot whole: everything that examples/scara makes of it, and its way over Kafka REST and Kafka."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import pytest
from kafka_server import Kafka
from servers import free_port

import tocsin
from tocsin.acquire.simulate import write_scara_xml
from tocsin.models.store import Store

pytestmark = pytest.mark.timeout(240)
EXAMPLES = Path(__file__).parent.parent / "examples"
HISTORY, LIVE, WINDOW, BLOCKED = 420, 160, 100, 40


def test_archive_train_forecast_and_alarm(tmp_path: Path) -> None:
    """XML -> topic -> archive -> a net that looks at 100 s -> forecasts -> an alarm when it is blocked."""
    pytest.importorskip("jax")
    training = ["model.epochs=10", "model.batch=16", "model.units=24", "model.learning_rate=0.005"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "scara" / "everything.py"), "--history", str(HISTORY), "--seconds", str(LIVE),
         "--rate", "100", "--folder", str(tmp_path), "--port", str(free_port()), "--page", str(free_port()),
         *(word for one in training for word in ("--set", one))],
        capture_output=True, text=True, timeout=230,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = Store(tmp_path / "models").show("scara")
    assert (manifest.window, manifest.target, manifest.settings["cell"]) == (WINDOW, "Total", "rnn")
    assert manifest.data["tables"].keys() == {"archive"}
    assert manifest.metrics["rmse"] < 0.5 * manifest.baselines["persistence"]["rmse"]
    assert "seasonal_naive" in manifest.baselines
    said = tocsin.read("forecasts", tmp_path / "forecasts").sort_by("time")
    archive = tocsin.read("archive", tmp_path / "lake").sort_by("time")
    assert said["Total"].to_pylist() == archive["Total"].to_pylist()[-len(said) :]
    whole = said["until_ready"].to_pylist()
    assert whole[: WINDOW + 1] == [*range(WINDOW - 1, 0, -1), 0, 0]
    sound = said.slice(WINDOW, LIVE - WINDOW - BLOCKED - 10)
    assert sound["yhat_lower"].null_count == 0
    error = pc.sqrt(pc.mean(pc.power(pc.subtract(sound["y"], sound["yhat"]), 2))).as_py()
    change = pc.sqrt(pc.mean(pc.power(pc.pairwise_diff(sound["y"].combine_chunks()), 2))).as_py()
    assert error < 0.5 * change
    assert "rmse_of_last" in done.stdout
    blocked_from = archive["time"].to_pylist()[-BLOCKED]
    for table in ("leaves_bounds", "leaves_limits"):
        alarms = tocsin.read(table, tmp_path / "forecasts").sort_by("time").to_pylist()
        assert alarms[0]["event"] == "raised", table
        assert alarms[0]["time"] >= blocked_from, table


@contextmanager
def running(command: list[str], variables: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, env=os.environ | variables)
    try:
        yield
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 90
    while not true():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)


def rows(folder: Path) -> int:
    return tocsin.read("archive", folder).num_rows if (folder / "archive" / "_delta_log").is_dir() else 0


def test_the_robot_posts_to_kafka_and_a_consumer_archives(kafka: Kafka, tmp_path: Path) -> None:
    """Files -> Kafka REST v2 -> Kafka -> one row for each time stamp; nothing lost, nothing twice."""
    xml, port, seconds = tmp_path / "xml", free_port(), 60
    write_scara_xml(xml, seconds, start=datetime(2026, 1, 5, tzinfo=UTC))
    torn = xml / "scara_00000010.xml"
    torn.write_text(torn.read_text().replace("Good", "Bad", 1))
    variables = {
        "TOCSIN_KAFKA": kafka.address,
        "TOCSIN_SCARA_TOPIC": kafka.topic(2),
        "TOCSIN_HTTP_PORT": str(port),
        "TOCSIN_FOLDER": str(tmp_path / "gateway"),
    }
    run = [sys.executable, "-m", "tocsin.cli", "run"]
    robot = [sys.executable, str(EXAMPLES / "scara" / "robot.py"), str(xml), f"http://127.0.0.1:{port}",
             variables["TOCSIN_SCARA_TOPIC"]]  # fmt: skip
    with (
        running([*run, str(EXAMPLES / "kafka" / "scara_gateway.yaml")], variables),
        running([*run, str(EXAMPLES / "kafka" / "scara_archive.yaml")], variables | {"TOCSIN_FOLDER": str(tmp_path)}),
    ):
        sender = subprocess.Popen(robot)
        try:
            # The last time stamp waits for a second that is later than the lateness allows.
            wait_until(lambda: rows(tmp_path) >= seconds - 2)
            assert not list(xml.iterdir())
        finally:
            sender.kill()
            sender.wait()
    tags = kafka.records(variables["TOCSIN_SCARA_TOPIC"])
    assert len(tags) == 29 * seconds
    assert {record.key() for record in tags} == {b"scararobot"}
    archive = tocsin.read("archive", tmp_path).sort_by("time")
    assert len(archive["time"].unique()) == len(archive)
    names = [name for name in archive.column_names if name not in ("key", "time", "Total", "late")]
    assert len(names) == 29
    for number, row in enumerate(archive.to_pylist()):
        assert row["Total"] == pytest.approx(sum(row[name] or 0.0 for name in names))
        assert sum(row[name] is None for name in names) == (1 if number == 10 else 0)
