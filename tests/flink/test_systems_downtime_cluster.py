"""examples/downtime-flink.yaml on a real Flink cluster, fed by a real Kafka, with a TaskManager that is killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import downtime_plant
from downtime_plant import FILE, eventually, is_there, receiver
from real_flink import MARKS, ended_well, started
from test_systems_downtime import assert_others_read_the_same, assert_page_shows_who_may_what, difference, set_up

from tocsin import read

pytestmark = MARKS
__all__ = ["set_up"]


def test_the_whole_system_on_a_cluster(set_up: Callable[[str], Path], tmp_path: Path) -> None:
    with receiver() as told:
        folder = set_up(told.url)
        wanted = downtime_plant.embedded(tmp_path / "embedded")
        with started(tmp_path / "flink") as machine:
            running = machine.run(FILE, folder)
            eventually(lambda: is_there("downtime", folder) and read("downtime", folder).num_rows > 0, "no events")
            machine.kill_taskmanager()
            machine.flink("up")
            eventually(lambda: downtime_plant.bags(folder) == wanted, "the tables are not those of the embedded run")
            assert_page_shows_who_may_what(folder)
            rings = sum(row["ring"] for row in read("alarms", folder).to_pylist())
            eventually(lambda: len(told.bodies) >= rings, "messages are missing")
            running.send_signal(signal.SIGINT)
            assert "going back to the last checkpoint" in ended_well(running)
        assert downtime_plant.bags(folder) == wanted, difference(wanted, folder)
        assert_others_read_the_same(folder)
        assert len({str(body) for body in told.bodies}) == len(told.bodies) == rings > 0
