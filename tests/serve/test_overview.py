"""Many machines in a real browser: tiles out of sight, the heat map by time, key figures; with axe."""

from __future__ import annotations

import csv
import io
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from servers import free_port

from tocsin.bases import VERDICT, judging
from tocsin.batch import KEY, TIME, Batch, as_keys, as_times
from tocsin.engine.feed import SOCKET, PageFeed
from tocsin.engine.wire import StreamColumns, describe
from tocsin.notify.alarm import Alarm
from tocsin.output.delta import Delta
from tocsin.pipeline.plan import Asset
from tocsin.serve import desk
from tocsin.serve.access import Address
from tocsin.serve.app import Running, start
from tocsin.serve.messages import Plant, SignalLabel
from tocsin.testing import world

pytestmark = pytest.mark.timeout(120)
WAIT_MS = 20_000
MACHINES = 300
SICK = 217
"""The machine that has an alarm since ten minutes ago."""
NAMES = [f"machine-{i:03}" for i in range(MACHINES)]
SIGNALS = [f"signal_{i:02}" for i in range(20)]
FIELDS = [KEY, TIME, *(pa.field(name, pa.float64()) for name in SIGNALS), *judging(VERDICT, SIGNALS[0])]


def readings(seconds: np.ndarray, sick_since_s: float) -> pa.RecordBatch:
    """A reading of each machine at each of these times."""
    machines, times = np.tile(np.arange(MACHINES), len(seconds)), np.repeat(seconds, MACHINES)
    score = np.where((machines == SICK) & (times >= sick_since_s), 90.0, 5.0)
    values = [pa.array(machines + i + np.sin(times)) for i in range(len(SIGNALS))]
    band = [pa.array(np.full(len(times), at)) for at in (1.0, 0.0, 2.0)]
    keys = as_keys(pa.array([NAMES[i] for i in machines]))
    columns = [keys, as_times((times * 1e6).astype(np.int64)), *values, *band, pa.array(score)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(FIELDS))


def write(folder: Path, name: str, batches: list[pa.RecordBatch]) -> None:
    writer = Delta(path=name).open(world(folder, "test"), batches[0].schema)
    writer.publish(1, [writer.stage(1, batches)])
    writer.close()


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """300 machines of 20 signals: the last half hour in the tables, a reading a second live."""
    folder = tmp_path_factory.mktemp("many")
    begun_s = time.time()
    past = readings(np.arange(begun_s - 1800, begun_s, 60), begun_s - 600)
    alarm = Alarm(rule="odd", of=SIGNALS[0], score=75)
    alarm.output_schema(past.schema)
    _, passed = alarm.step(alarm.initial(), Batch(past, int(begun_s * 1e6)))
    write(folder / "lake", "judged", [past])
    write(folder / "lake", "alarms", [batch.rows for batch in passed])
    halls = {name: Asset(name, f"hall {i % 3}", f"line {i % 2}") for i, name in enumerate(NAMES[:12])}
    halls[NAMES[3]] = Asset(NAMES[3], "hall 0", "line 1", "The old mill")
    known = Plant(halls, {SIGNALS[0]: SignalLabel("Outlet", "°C")}, zone="Asia/Kathmandu")
    streams = [describe("judged", pa.schema(FIELDS)), StreamColumns(name="alarms", kind="alarms")]
    address = Address(port=free_port())
    page = start(folder, folder / "lake", address, title="many machines", plant=known, streams=streams)
    feed, stop = PageFeed(folder / SOCKET), threading.Event()

    def tell() -> None:
        while not stop.wait(1.0):
            feed.offer("judged", Batch(readings(np.array([time.time()]), begun_s)))
            feed.counters({"rows_in": {"plant": 1}})

    thread = threading.Thread(target=tell)
    thread.start()
    yield page, folder / "lake"
    stop.set()
    thread.join()
    feed.close()
    page.stop()


@pytest.fixture(scope="module")
def view(browser: Any, plant: tuple[Running, Path]) -> Iterator[Any]:
    view = browser.new_page(viewport={"width": 1480, "height": 900}, color_scheme="dark")
    complaints: list[str] = []
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto(plant[0].url)
    view.wait_for_selector("#link[data-state=live]", timeout=WAIT_MS)
    view.wait_for_selector(".tile", timeout=WAIT_MS)
    yield view
    view.close()
    assert complaints == []


def test_only_tiles_in_sight_are_there_the_worst_first_and_the_keyboard_reaches_all(view: Any) -> None:
    focused = "() => document.activeElement.dataset.name + ' ' + document.activeElement.ariaPosInSet"
    view.wait_for_selector(".tile .value b:has-text('2')", timeout=WAIT_MS)
    first = view.locator(".tile").first
    assert first.locator(".name").inner_text() == f"machine-{SICK}"
    assert first.get_attribute("aria-setsize") == str(MACHINES)
    first.focus()
    for key, wanted in (
        ("ArrowDown", "machine-000 2"), ("ArrowDown", "machine-001 3"), ("End", "machine-299 300"),
        ("ArrowUp", "machine-298 299"), ("Home", f"machine-{SICK} 1"), ("End", "machine-299 300"),
    ):  # fmt: skip
        view.keyboard.press(key)
        assert view.evaluate(focused) == wanted, key
        assert view.locator(".tile").count() < 40
    view.evaluate("() => { document.getElementById('tiles').scrollTop = 0; }")
    view.wait_for_selector(".tile >> text=machine-001", timeout=WAIT_MS)
    assert view.evaluate(focused) == "machine-299 300", "what has the focus stays, though it is out of sight"
    view.fill("#filter", "machine-150")
    view.wait_for_function("() => document.querySelectorAll('.tile').length === 1", timeout=WAIT_MS)
    view.click(".tile")
    view.wait_for_function("() => document.getElementById('chosen').textContent === 'machine-150'", timeout=WAIT_MS)
    assert view.evaluate(focused) == "machine-150 1", "a click gives the focus, too"
    view.fill("#filter", "")


ORDERED = """() => {
  const places = [...document.querySelectorAll('#tiles .tile')].map((tile) => Number(tile.ariaPosInSet));
  return places.every((place, i) => !i || place > places[i - 1]);
}"""
"""Whether the elements stand in the order of their tiles, as they do once they have been painted anew."""


def test_a_tile_keeps_the_focus_when_the_list_is_painted_anew_between_two_keys(view: Any) -> None:
    focused = "() => document.activeElement.dataset.name"
    view.wait_for_function("() => document.querySelectorAll('.tile').length > 5", timeout=WAIT_MS)
    view.locator(".tile").first.focus()
    for key, wanted in (
        ("End", "machine-299"), ("ArrowUp", "machine-298"), ("PageUp", None), ("PageUp", None),
        ("Home", f"machine-{SICK}"), ("ArrowDown", "machine-000"),
    ):  # fmt: skip
        view.keyboard.press(key)
        reached = view.evaluate(focused)
        assert wanted in (None, reached), key
        view.wait_for_function(ORDERED, timeout=WAIT_MS)
        assert view.evaluate(focused) == reached, key


def test_the_focus_goes_to_another_tile_only_where_its_own_has_left(view: Any) -> None:
    # The list by itself, painted when the test says so.
    walk = """async (names) => {
      const { Tiles } = await import("/tiles.js");
      const host = document.body.appendChild(document.createElement("div"));
      Object.assign(host.style, { position: "fixed", inset: "0", overflow: "auto" });
      const tiles = new Tiles(host, { choose() {}, moved() {} });
      const calm = { status: "running", severity: "", active: false, silent: false, state: "" };
      const fill = () => names.forEach((name, id) => tiles.update({ id, name, ...calm }));
      const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const walked = [];
      const note = () => walked.push(document.activeElement.dataset.name ?? "nothing");
      fill();
      tiles.paint("all", "", "");
      host.querySelector(".tile").focus();
      press("End"); tiles.paint("all", "", ""); note();
      tiles.clear(); fill(); press("ArrowLeft"); note(); // loaded anew, and not painted yet
      tiles.paint("all", "", ""); note();
      tiles.paint("all", "machine-00", ""); note();
      press("ArrowRight"); note();
      host.remove();
      return walked;
    }"""
    walked = view.evaluate(walk, NAMES)
    assert walked == ["machine-299", "machine-298", "machine-298", "machine-000", "machine-001"]


def test_all_signals_of_the_chosen_machine_are_shown_with_their_past_and_move(view: Any, plant: Any) -> None:
    asked = {"machine": "machine-150"}
    series = httpx.get(f"{plant[0].url}/api/series", params=asked).json()["series"]
    assert [one["signal"] for one in series] == SIGNALS
    assert len(series[0]["points"]["time"]) > 25, "half an hour is in the tables"
    view.goto(f"{plant[0].url}/#machine=machine-150")
    view.wait_for_function(f"() => document.querySelectorAll('.card').length === {len(SIGNALS)}", timeout=WAIT_MS)
    newest = "() => document.querySelector('.card .plot')?.data?.[2]?.x.at(-1) ?? 0"
    view.wait_for_function(f"() => ({newest})() > 0", timeout=WAIT_MS)
    before = view.evaluate(newest)
    view.wait_for_function(f"before => ({newest})() > before", arg=before, timeout=WAIT_MS)
    answered = httpx.get(f"{plant[0].url}/api/glances", params={"ids": "0,299,9999"}).json()["glances"]
    assert [(one["id"], one["signals"], len(one["values"])) for one in answered] == [(0, 20, 3), (299, 20, 3)]
    assert httpx.get(f"{plant[0].url}/api/glances", params={"ids": "0,x"}).status_code == 422


def test_the_heat_map_leads_to_machine_and_time_by_mouse_and_by_keys(view: Any, plant: Any) -> None:
    view.goto(f"{plant[0].url}/#machine=machine-000")
    view.wait_for_selector("#heat-names span >> text=machine-217", timeout=WAIT_MS)
    assert view.locator("#heat-names span").count() == 10
    assert view.locator("#lanes-place").inner_text() == f"1 to 10 of {MACHINES}"
    worst = view.locator("#heat-table tr").first.locator("th, td").all_text_contents()
    assert worst[:2] == [f"machine-{SICK}", "critical"]
    view.click("#lanes-after")
    view.wait_for_function(
        "() => document.getElementById('lanes-place').textContent.startsWith('11 ')", timeout=WAIT_MS
    )
    view.click("#lanes-before")
    view.wait_for_function("() => document.getElementById('lanes-place').textContent.startsWith('1 ')", timeout=WAIT_MS)

    hour = view.locator("#lanes-span").inner_text()
    view.focus("#heat")
    assert view.locator("#heat-said").inner_text().startswith(f"machine-{SICK}, ")
    view.keyboard.press("Enter")
    view.wait_for_function(f"() => document.getElementById('chosen').textContent === 'machine-{SICK}'", timeout=WAIT_MS)
    for _ in range(10):
        view.keyboard.press("Shift+ArrowLeft")
    assert "is marked" in view.locator("#heat-said").inner_text()
    view.keyboard.press("Enter")
    view.wait_for_function("() => location.hash.includes('from=')", timeout=WAIT_MS)
    shown = "(['from', 'to'].map((end) => Date.parse(new URLSearchParams(location.hash.slice(1)).get(end))))"
    minutes = f"() => {{ const [from, to] = {shown}; return (to - from) / 60000; }}"
    assert view.evaluate(minutes) == pytest.approx(11, abs=1.1), "eleven of sixty cells of an hour, up to now"

    view.wait_for_function("hour => document.getElementById('lanes-span').textContent !== hour", arg=hour)
    box = view.locator("#heat-map").bounding_box()
    view.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 8)
    view.mouse.down()
    view.mouse.move(box["x"] + box["width"] * 0.74, box["y"] + 8, steps=4)
    view.mouse.up()
    view.wait_for_function(f"() => ({minutes})() < 7", timeout=WAIT_MS)
    view.click("#ranges button:text-is('live')")


def test_the_heat_map_shows_the_signals_of_the_chosen_machine_too_with_ticks_and_what_colours_mean(
    view: Any, plant: Any
) -> None:
    view.goto(f"{plant[0].url}/#machine=machine-{SICK}")
    view.wait_for_function(f"() => document.getElementById('chosen').textContent === 'machine-{SICK}'", timeout=WAIT_MS)
    view.click("#lanes-signals")
    view.wait_for_selector("#heat-names span:text-is('Outlet')", timeout=WAIT_MS)
    assert view.locator("#heat-names span").count() == 1, "one signal of twenty is judged"
    assert "lanes=signals" in view.url
    worst = view.locator("#heat-table tr").first.locator("th, td").all_text_contents()
    assert worst[:2] == ["Outlet", "critical"]
    assert len(view.locator("#heat-axis span").all_text_contents()) > 1
    meant = view.locator("#heat-key span").all_inner_texts()
    assert meant == ["nothing known", "calm", "warning", "minor", "major", "critical"]
    view.focus("#heat")
    assert view.locator("#heat-said").inner_text().startswith("Outlet, ")
    view.keyboard.press("Enter")
    assert view.evaluate("() => document.activeElement.dataset.signal") == SIGNALS[0], "its chart"
    link = view.url
    view.goto("about:blank")
    view.goto(link)
    view.wait_for_selector("#heat-names span:text-is('Outlet')", timeout=WAIT_MS)
    view.click(".tile:has-text('machine-000')")
    view.wait_for_function("() => document.querySelector('#heat-table td')?.textContent === 'calm'", timeout=WAIT_MS)
    view.click("#lanes-machines")
    view.wait_for_selector("#heat-names span >> text=machine-217", timeout=WAIT_MS)
    assert "lanes=" not in view.url


def test_times_are_those_of_the_plants_clocks_wherever_the_browser_is(view: Any, plant: Any) -> None:
    view.goto(f"{plant[0].url}/#machine=machine-000&from=2026-03-01T06:00:00Z&to=2026-03-01T09:00:00Z")
    view.wait_for_function("() => document.getElementById('from').value === '2026-03-01T11:45'", timeout=WAIT_MS)
    assert view.locator("#zone").inner_text() == "Asia/Kathmandu"
    view.fill("#to", "2026-03-01T12:45")  # by the clocks there
    view.wait_for_function("() => location.hash.includes('to=2026-03-01T07%3A00')", timeout=WAIT_MS)
    view.wait_for_selector("#empty-text:has-text('between Mar 1, 2026 11:45:00 and')", timeout=WAIT_MS)
    view.click("#ranges button:text-is('live')")


@pytest.mark.parametrize(
    ("zone", "begin", "hours", "ticks"),
    [  # on the day that has 23 hours, on that which has 25 of them, and by a clock that is no whole hours ahead
        ("Europe/Berlin", "2026-03-28T23:00Z", 9, ["Mar 29", "04:00", "06:00", "08:00", "10:00"]),
        ("Europe/Berlin", "2026-10-25T00:15Z", 1, ["02:15", "02:30", "02:45", "02:00", "02:15"]),
        ("Asia/Kathmandu", "2026-10-25T00:00Z", 4, ["06:00", "07:00", "08:00", "09:00"]),
        ("Europe/Berlin", "2026-10-24T22:00Z", 24 * 30, ["Oct 26", "Nov 2", "Nov 9", "Nov 16", "Nov 23"]),
    ],
)
def test_ticks_stand_at_full_hours_and_days_of_the_clock(
    view: Any, zone: str, begin: str, hours: int, ticks: list[str]
) -> None:
    asked = """async ([zone, begin, hours]) => {
      const clock = new (await import("/clock.js")).Clock();
      clock.take(zone);
      const from = Date.parse(begin);
      return clock.ticks(from, from + 3600000 * hours, 5).texts;
    }"""
    assert view.evaluate(asked, [zone, begin, hours]) == ticks


def test_key_figures_are_those_of_the_command_line(view: Any, plant: Any) -> None:
    page, lake = plant
    told = httpx.get(f"{page.url}/api/kpis").json()
    known = desk.kpis(lake)
    assert {**told, "from": None, "until": None} == {**known, "from": None, "until": None}
    assert (told["raised"], told["most_frequent"]) == (1, [{"alarm": f"odd:machine-{SICK}", "raised": 1}])
    assert httpx.get(f"{page.url}/api/kpis", params={"table": "none"}).status_code == 404
    view.click("#kpis summary")
    row = view.locator("#kpis tr:has-text('Alarms per 10 minutes, most')")
    row.wait_for(timeout=WAIT_MS)
    assert row.locator("td").all_text_contents() == ["1", "at most 10"]
    assert f"odd:machine-{SICK}: 1" in view.locator("#kpis ol").first.inner_text()


def test_machines_and_signals_are_called_as_people_do_and_found_where_they_stand(view: Any, plant: Any) -> None:
    assert view.locator(".alarm .where").inner_text() == f"machine-{SICK} · Outlet"
    assert re.search(r"measured [\d.]+ °C", view.locator(".alarm .facts").inner_text())
    view.goto(f"{plant[0].url}/#machine={NAMES[3]}")
    view.wait_for_selector("#chosen:text-is('The old mill')", timeout=WAIT_MS)
    view.wait_for_selector(".card h3:text-is('Outlet')", timeout=WAIT_MS)
    view.wait_for_selector(f".card[data-signal={SIGNALS[0]}] .now:has-text('°C')", timeout=WAIT_MS)
    places = [f"hall {hall}{line}" for hall in range(3) for line in ("", " · line 0", " · line 1")]
    assert view.locator("#area option").all_text_contents() == ["all areas", *places]
    view.select_option("#area", "hall 0")
    view.wait_for_selector(".alarm", state="detached", timeout=WAIT_MS)
    view.wait_for_function("() => document.querySelectorAll('.tile').length === 4", timeout=WAIT_MS)
    view.select_option("#area", "hall 0 · line 1")
    view.wait_for_function("() => document.querySelectorAll('.tile').length === 2", timeout=WAIT_MS)
    view.wait_for_function("() => document.querySelectorAll('#heat-names span').length === 2", timeout=WAIT_MS)
    assert "area=hall+0" in view.url
    assert view.locator(".tile .name").first.inner_text() in ("The old mill", NAMES[9])
    view.select_option("#area", "")
    view.wait_for_selector(".alarm", timeout=WAIT_MS)
    view.wait_for_function("() => document.querySelectorAll('#heat-names span').length === 10", timeout=WAIT_MS)
    view.fill("#filter", "old mill")
    view.wait_for_function("() => document.querySelectorAll('.tile').length === 1", timeout=WAIT_MS)
    view.fill("#filter", "")
    (row,) = csv.DictReader(io.StringIO(httpx.get(f"{plant[0].url}/api/alarms.csv").text))
    assert (row["key"], row["area"], row["name"]) == (NAMES[SICK], "", "")


@pytest.mark.parametrize("asked", ["", "from=5&to=3", "from=0&to=9&cells=0", "from=0&to=9&count=99", "from=0&to=x"])
def test_what_makes_no_lanes_is_refused(plant: Any, asked: str) -> None:
    assert httpx.get(f"{plant[0].url}/api/lanes?{asked}").status_code == 422


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_serious(view: Any, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    if view.evaluate("() => document.documentElement.dataset.theme") != theme:
        view.click("#theme")
    view.locator(".lanes .table summary").click()
    drawn = {"exclude": [[".plot"]]}  # what Plotly draws is not ours, and slow to look at
    wrong = axe.Axe().run(view, context=drawn).response["violations"]
    told = [(one["id"], one["impact"], [node["html"][:120] for node in one["nodes"]][:3]) for one in wrong]
    assert [one for one in told if one[1] in ("serious", "critical")] == []
