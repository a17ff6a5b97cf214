"""The message of an alarm leads to its story on the page, where the pipeline says where that is; else nowhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tocsin.domain.alarms import CASE_OPENED, FLOOD_BEGINS
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.telling import with_links
from tocsin.errors import ConfigError
from tocsin.notify.alarm import Alarm
from tocsin.notify.cases import Cases
from tocsin.output._cloudevents import alertmanager
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.testing import feed, rows

URL = "https://plant.example:8321"
FILE = """
name: plant
source: {{files: {{path: {folder}/in.ndjson}}}}
decode: {{json: {{columns: {{machine: text, ts: timestamp, t_out: float}}}}}}
key: machine
time: ts
folder: {folder}/data
streams:
  alarms:
    steps: [alarm: {{rule: hot, of: t_out, high: 90}}]
    sinks: [{{notify: {{to: "{target}", allow_private: true, text: "{text}"}}}}]
"""


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server that takes whatever is posted; its address, and what it has taken."""
    taken: list[dict[str, Any]] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test says what is wrong."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", taken
    server.shutdown()
    serving.join()
    server.server_close()


def run(folder: Path, target: str, page: str, text: str = "") -> None:
    """Run a plant of one reading that is too hot, to its end: its message is delivered by then."""
    folder.mkdir()
    (folder / "in.ndjson").write_text('{"machine": "press-1", "ts": "2026-01-01T00:00:00Z", "t_out": 99.5}\n')
    (folder / "plant.yaml").write_text(FILE.format(folder=folder, target=target, text=text) + page)
    EmbeddedRunner(load_with_plan(folder / "plant.yaml")[1]).run()


def test_a_message_has_a_link_only_where_it_is_known_where_the_page_is(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    target, taken = hook
    run(tmp_path / "linked", target, f"page: {{url: '{URL}/'}}\n")
    run(tmp_path / "unlinked", target, "")
    linked, unlinked = taken
    link = f"{URL}/#alarm={linked['row']['id']}"
    assert linked["row"]["link"] == link
    assert linked["text"].endswith(f" {link}")
    assert "link" not in unlinked["row"]
    assert "http" not in unlinked["text"]
    (alert,) = json.loads(alertmanager(linked["row"] | {"time": Alarmed.time, "started": None}))
    assert alert["generatorURL"] == link
    with pytest.raises(ConfigError, match="names column 'link'"):
        run(tmp_path / "named", target, "", text="{link}")


class Alarmed:
    """The rows of a hot pump and a hot motor, and of the case that they make."""

    single = feed(Alarm(rule="hot", high=80), rows({"key": ["a/pump", "a/motor"], "value": [81.0, 82.0]}))
    case = feed(Cases(depth=1), single.combine_chunks().to_batches()[0])
    time = single["time"][0].as_py()


def test_the_link_of_a_case_leads_to_its_first_alarm() -> None:
    told = with_links(Alarmed.case.combine_chunks().to_batches()[0], URL).to_pylist()
    first = next(row for row in told if row["first_out"])
    links = {row["event"]: row["link"] for row in reversed(told)}
    assert links[CASE_OPENED] == links["raised"] == f"{URL}/#alarm={first['id']}"
    flood = {**told[0], "event": FLOOD_BEGINS, "evidence": '{"first_out": "", "alarms": []}'}
    del flood["link"]
    alone = with_links(pa.RecordBatch.from_pylist([flood]), URL)
    assert alone["link"].to_pylist() == [None], "there is no alarm to show"


def test_rows_that_are_no_alarms_have_no_link() -> None:
    readings = rows({"value": [1.0]})
    assert with_links(readings, URL) is readings
