"""SQL by the page's API: what is answered, what is refused, and files that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plant import Plant
from servers import free_port
from test_access import Client, client_of, ours, page_with

from tocsin.engine.audit import newest
from tocsin.output.delta import Delta
from tocsin.serve import accounts as of_accounts
from tocsin.serve import sql as of_sql
from tocsin.serve.access import Address
from tocsin.serve.accounts import Accounts
from tocsin.serve.app import start
from tocsin.testing import rows, world

WAIT_MS = 20_000
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    readings = rows({"key": ["pump", "fan", "pump"], "value": [1.5, 2.5, None], "note": ["=1+1", "<b>x</b>", "-"]})
    writer = Delta(path="readings").open(world(folder, "test"), readings.schema)
    writer.publish(1, [writer.stage(1, [readings])])
    writer.close()
    return folder


@pytest.fixture
def client(lake: Path, tmp_path: Path) -> Client:
    return client_of(replace(page_with(tmp_path), lake_folder=lake))


def ask(client: Client, sql: str, **more: Any) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in ours(client).items()}
    return client.post("/api/sql", headers=headers, json={"sql": sql, **more})


def test_rows_come_with_their_columns_and_the_versions_they_rest_on(client: Client, tmp_path: Path) -> None:
    told = ask(client, "select key, time, value, 9007199254740993 as big from readings order by time").json()
    assert told["columns"] == [
        {"name": "key", "kind": "text"}, {"name": "time", "kind": "time"},
        {"name": "value", "kind": "number"}, {"name": "big", "kind": "number"},
    ]  # fmt: skip
    assert told["rows"][0][0::2] == ["pump", 1.5]
    assert told["rows"][2][2] is None
    assert told["rows"][0][1].endswith(("Z", "+00:00"))
    assert told["rows"][0][3] == "9007199254740993", "no digit is lost on the way to a browser"
    assert (told["rests_on"], told["is_cut"]) == ({"readings": 1}, False)
    (row,) = newest(tmp_path, 10)
    assert (row.who, row.what, row.subject) == ("local", "sql", "json")
    assert "from readings" in row.details


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("select * from read_csv('/etc/passwd')", "disabled"),
        ("copy readings to '/tmp/x.csv'", "disabled"),
        ("attach '/tmp/x.db'", "disabled"),
        ("install httpfs", "disabled"),
        ("set enable_external_access = true", "locked"),
        ("select * from nothing", "there are these tables: readings"),
        ("selec 1", "syntax"),
        ("insert into readings values (1)", "readings"),
        ("select repeat('x', 70000000) as x", "MB"),
    ],
)
def test_it_sees_the_tables_and_nothing_else(client: Client, sql: str, said: str) -> None:
    refused = ask(client, sql)
    assert refused.status_code == 422
    assert said in refused.json()["error"]


def test_no_more_rows_are_made_than_are_shown(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for sql in ("select range as n from range(100000000000)", "/* no select at first */ from range(100000000000)"):
        told = ask(client, sql).json()
        assert (len(told["rows"]), told["is_cut"]) == (of_sql.SHOWN_MAX, True)
    monkeypatch.setattr(of_sql, "FILE_MAX", 10)
    made = ask(client, "select range as n from range(11)", form="csv")
    assert (len(made.text.splitlines()), made.headers["x-tocsin-cut"]) == (11, "10")


def test_a_query_has_an_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.serve.evidence.QUERY_S", 0.3)
    refused = ask(client, "select count(*) from range(10000000) a, range(10000000) b where a.range % 7 = b.range % 11")
    assert refused.status_code == 422
    assert "longer than 0.3 s" in refused.json()["error"]


def test_files_hold_the_same_and_no_formula(client: Client) -> None:
    sql = "select key, value, note, [1, 2] as list, '+x'::blob as raw, time as \"=time\" from readings order by time"
    made = ask(client, sql, form="csv")
    assert made.headers["content-disposition"] == 'attachment; filename="query.csv"'
    cells = list(csv.DictReader(io.StringIO(made.text)))
    assert [row["note"] for row in cells] == ["'=1+1", "<b>x</b>", "'-"]
    assert cells[0]["value"] == "1.5"
    assert cells[0]["list"] == "[1,2]"
    assert list(cells[0])[-1] == "'=time"
    assert not [cell for row in cells for cell in (*row, *row.values()) if cell.startswith(("=", "+", "-", "@"))]
    table = pq.read_table(pa.BufferReader(ask(client, sql, form="parquet").content))
    assert table["note"].to_pylist() == ["=1+1", "<b>x</b>", "-"], "a file of data is left as it is"
    assert table["value"].to_pylist() == [1.5, 2.5, None]


def test_before_there_are_tables(tmp_path: Path) -> None:
    assert ask(client_of(page_with(tmp_path)), "select 1").status_code == 404


@pytest.fixture
def site(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page with a viewer and an engineer, and an alarm."""
    monkeypatch.setattr(of_accounts, "_N", 2**10)
    for name in ("viewer", "engineer"):
        Accounts(tmp_path).add(f"the-{name}", name, PASSWORD)
    running = start(tmp_path, lake, Address(port=free_port(), has_accounts=True))
    plant = Plant(tmp_path, past_s=30, fault_after_s=0.0)
    plant.until_heard()
    try:
        yield running.url
    finally:
        plant.close()
        running.stop()


@pytest.mark.timeout(120)
def test_an_engineer_asks_on_the_page_and_a_viewer_is_not_offered_it(browser: Any, site: str) -> None:
    context = browser.new_context(viewport={"width": 1480, "height": 900}, locale="de-DE", timezone_id="Europe/Berlin")
    view, complaints = context.new_page(), []
    view.on("console", lambda m: complaints.append(m.text) if m.type == "error" and "401" not in m.text else None)
    view.on("pageerror", lambda error: complaints.append(str(error)))

    def sign_in(name: str) -> None:
        view.wait_for_selector("#sign-in[open]", timeout=WAIT_MS)
        view.fill("#name", name)
        view.fill("#password", PASSWORD)
        view.click("#sign-in button")
        view.wait_for_selector(f"#who:has-text('{name}')", timeout=WAIT_MS)
        view.wait_for_selector(".tile", timeout=WAIT_MS)

    view.goto(site)
    sign_in("the-viewer")
    assert view.locator("#open-query").is_hidden()
    assert view.locator(".alarm .acts button:visible").all_inner_texts() in ([], ["Evidence"])
    view.click("#sign-out")
    sign_in("the-engineer")
    view.click("#open-query")
    view.fill("#sql", "select time, value, note from readings order by time")
    view.keyboard.press("Control+Enter")
    view.wait_for_selector("#query-rows tbody tr", timeout=WAIT_MS)
    assert view.locator("#query-rows th").all_inner_texts() == ["time", "value", "note"]
    assert view.locator("#query-rows tbody tr").count() == 3
    assert view.locator("#query-rows td").nth(5).inner_text() == "<b>x</b>", "a text, not HTML"
    assert view.locator("#query-said").inner_text() == "3 rows of readings at version 1"
    view.wait_for_selector("#query-chart .main-svg", timeout=WAIT_MS)
    with view.expect_download(timeout=WAIT_MS) as download:
        view.click("#query-csv")
    assert download.value.suggested_filename == "query.csv"
    assert "'=1+1" in Path(download.value.path()).read_text()
    view.fill("#sql", "select timestamptz '2026-05-04 00:00Z' + to_days(range::int) as time, range as n from range(5)")
    view.click("#run-query")
    ticks = "() => document.getElementById('query-chart')._fullLayout?.xaxis.ticktext ?? []"
    view.wait_for_function(f"() => ({ticks})().includes('5. Mai')", timeout=WAIT_MS)
    at = "() => document.getElementById('query-chart')._fullLayout.xaxis._vals.map((tick) => [tick.x, tick.text])"
    first = [datetime(2026, 5, 4, tzinfo=UTC).timestamp() * 1000, "4. Mai"]
    assert first in view.evaluate(at), "by UTC, as the table beside it, in whatever zone the browser is"
    view.evaluate(
        "() => Plotly.relayout('query-chart', {'xaxis.range': ['2026-05-05 06:00', '2026-05-05 07:00:00.1234']})"
    )
    view.wait_for_function(f"() => ({ticks})().includes('06:30')", timeout=WAIT_MS)
    view.fill("#sql", "selec 1")
    view.click("#run-query")
    view.wait_for_selector("#query-said.error:has-text('syntax')", timeout=WAIT_MS)
    context.close()
    assert [one for one in complaints if "422" not in one] == []
