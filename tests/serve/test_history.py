"""A machine's past: what the page reads of the lake over a range of time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from msgspec.structs import replace
from servers import free_port

from tocsin.bases import VERDICT, judging
from tocsin.batch import KEY, TIME, as_keys, as_times
from tocsin.engine.wire import describe
from tocsin.lake.read import query
from tocsin.output.delta import Delta
from tocsin.serve.access import Address
from tocsin.serve.app import Running, start
from tocsin.serve.history import history
from tocsin.world import SystemClock, SystemDisk, World

pytestmark = pytest.mark.timeout(120)
BEGIN_S = 1_772_323_200  # 2026-03-01T00:00:00Z
MONTH_S, EVERY_S = 30 * 86_400, 30
OVENS = pa.schema(
    [KEY, TIME, *(pa.field(name, pa.float64()) for name in ("t_in", "t_out")), *judging(VERDICT, "t_out")]
)
STROKES = pa.schema([KEY, TIME, pa.field("value", pa.float64())])
STREAMS = (describe("ovens", OVENS), describe("strokes", STROKES))
NAMES = ("oven-1", "oven-2", "o'ven;--")
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month of three ovens, wide with a verdict about t_out; and of a press, whose keys end in the signal."""
    folder = tmp_path_factory.mktemp("lake")
    rng = np.random.default_rng(5)
    seconds = np.arange(0, MONTH_S, EVERY_S)
    count = len(seconds)
    out = 60 + rng.normal(size=count)
    out[count // 2] = 90.0
    for i, name in enumerate(NAMES):
        t_in = np.where(np.arange(count) % 100, 20 + i + rng.normal(size=count), np.nan)
        verdict = (np.full(count, 60.0), np.full(count, 57.0), np.full(count, 63.0), np.where(out > 80, 95.0, 3.0))
        columns = [as_keys(pa.array([name] * count)), as_times((BEGIN_S + seconds) * 1_000_000)]
        columns += [pa.array(column) for column in (t_in, out, *verdict)]
        rows = pa.RecordBatch.from_arrays(columns, schema=OVENS)
        place = World(SystemClock(), SystemDisk(), folder, folder / ".state", "test/ovens")
        writer = Delta(path="ovens").open(place, rows.schema)
        writer.publish(i + 1, [writer.stage(i + 1, [rows])])
    keys = ["press-1/force", "press-1/stroke", "press-10/force"] * 20
    times = as_times((BEGIN_S + np.arange(60)) * 1_000_000)
    long = [as_keys(pa.array(keys)), times, pa.array(np.arange(60.0))]
    rows = pa.RecordBatch.from_arrays(long, schema=STROKES)
    place = World(SystemClock(), SystemDisk(), folder, folder / ".state", "test/strokes")
    writer = Delta(path="strokes").open(place, STROKES)
    writer.publish(1, [writer.stage(1, [rows])])
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_each_part_has_its_mean_least_and_most(lake: Path, name: str) -> None:
    parts = 500
    begin_ms, end_ms = BEGIN_S * 1000, (BEGIN_S + MONTH_S) * 1000
    series = {one.signal: one for one in history(lake, STREAMS, name, begin_ms, end_ms, parts)}
    assert set(series) == {"t_in", "t_out"}
    out = series["t_out"].points
    rows = query(
        "SELECT epoch(time) AS second, t_in, t_out FROM ovens WHERE key = $name", lake, parameters={"name": name}
    )
    part = (rows["second"].to_numpy() - BEGIN_S) * 1000 // (MONTH_S * 1000 / parts)
    values = rows["t_out"].to_numpy()
    assert len(out.time) == parts == len(set(out.time))
    for i in (0, 7, parts // 2, parts - 1):
        inside = values[part == i]
        np.testing.assert_allclose(
            np.array([out.value[i], out.least[i], out.most[i]], float),
            (inside.mean(), inside.min(), inside.max()),
            rtol=1e-6,
        )
    assert max(v for v in out.most if v is not None) == 90.0  # a single reading of 86,400 is still seen
    assert out.score.count(95.0) == 1
    inside = rows["t_in"].to_numpy()[part == 3]
    assert series["t_in"].points.value[3] == pytest.approx(np.nanmean(inside), rel=1e-6)  # what is missing is not 0
    assert series["t_in"].points.expected == []


def test_few_readings_are_shown_as_they_are(lake: Path) -> None:
    begin_ms = BEGIN_S * 1000
    series = history(lake, STREAMS, "press-1", begin_ms, begin_ms + 60_000, 600)
    assert [(one.signal, len(one.points.time)) for one in series] == [("force", 20), ("stroke", 20)]
    assert series[0].points.value[:3] == [0.0, 3.0, 6.0]
    assert [at - begin_ms for at in series[0].points.time[:3]] == [0, 3000, 6000]
    assert len({one.id for one in series}) == 2


def test_what_is_shown_but_not_kept_is_taken_from_what_is_kept(lake: Path) -> None:
    begin_ms = BEGIN_S * 1000
    judged = (replace(STREAMS[0], name="judged"),)
    series = history(lake, judged, "press-1", begin_ms, begin_ms + 60_000, 600)
    assert [(one.signal, one.stream) for one in series] == [("force", "strokes"), ("stroke", "strokes")]
    assert history(lake, STREAMS[:1], "oven-1", begin_ms, begin_ms + 60_000, 600)[0].stream == "ovens"


def test_a_score_stands_on_the_signal_that_its_row_names(tmp_path: Path) -> None:
    kinds = [("signal", pa.string()), ("t_in", pa.float64()), ("t_out", pa.float64()), ("score", pa.float64())]
    schema = pa.schema([KEY, TIME, *(pa.field(name, kind) for name, kind in kinds)])
    times = as_times((BEGIN_S + np.arange(3)) * 1_000_000)
    columns = [["t_out", "t_in", "t_out"], [1.0] * 3, [2.0] * 3, [90.0, 80.0, 10.0]]
    rows = pa.RecordBatch.from_arrays([as_keys(pa.array(["p"] * 3)), times, *map(pa.array, columns)], schema=schema)
    writer = Delta(path="judged").open(World(SystemClock(), SystemDisk(), tmp_path, tmp_path / ".state", "t"), schema)
    writer.publish(1, [writer.stage(1, [rows])])
    begin_ms = BEGIN_S * 1000
    drawn = {one.signal: one.points.score for one in history(tmp_path, (), "p", begin_ms, begin_ms + 3000, 3)}
    assert drawn == {"t_in": [None, 80.0, None], "t_out": [90.0, None, 10.0]}


def test_nothing_is_shown_of_another_time_or_machine(lake: Path) -> None:
    begin_ms = BEGIN_S * 1000
    assert history(lake, STREAMS, "press-1", begin_ms - 10_000, begin_ms, 10) == []
    assert history(lake, STREAMS, "press", begin_ms, begin_ms + 60_000, 10) == []
    assert [len(one.points.time) for one in history(lake, STREAMS, "press-10", begin_ms, begin_ms + 60_000, 60)] == [20]


@pytest.fixture(scope="module")
def page(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start(
        tmp_path_factory.mktemp("page"), lake, Address(port=free_port()), title="the ovens", streams=STREAMS
    )
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("from=5&to=3", 422),
        ("from=x&to=3", 422),
        ("from=3", 422),
        ("from=0&to=9000000000000", 422),
        ("from=0&to=10&points=999999", 422),
        ("from=0&to=10", 200),
    ],
)
def test_what_makes_no_range_is_refused(page: Running, asked: str, status: int) -> None:
    import httpx

    assert httpx.get(f"{page.url}/api/series?machine=oven-1&{asked}").status_code == status


CHART = "name => [...document.querySelectorAll('.card')].find((c) => c.dataset.signal === name)?.querySelector('.plot')"


def test_a_link_shows_what_its_sender_saw(browser: Any, page: Running) -> None:
    def shown(view: Any) -> tuple[float, float]:
        script = f"() => ({CHART})('t_out').layout.xaxis.range.map((at) => new Date(at).getTime())"
        begin, end = view.evaluate(script)
        return begin / 1000 - BEGIN_S, end / 1000 - BEGIN_S

    drawn = f"() => (({CHART})('t_out')?.data?.[2].x.length ?? 0) > "
    view = browser.new_page(viewport={"width": 1480, "height": 900})
    complaints: list[str] = []
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto(f"{page.url}/#machine=oven-2&from=2026-03-01T00:00:00Z&to=2026-03-31T00:00:00Z")
    view.wait_for_function(drawn + "400", timeout=WAIT_MS)
    assert view.text_content("#chosen") == "oven-2"
    assert shown(view) == (0, MONTH_S)
    # The one reading of 90 in the middle of the month stands out, and is marked.
    assert max(view.evaluate(f"() => ({CHART})('t_out').data[4].y")) == 90
    assert view.evaluate(f"() => ({CHART})('t_out').data[3].x.length") == 1

    # Who draws over a part of a chart sees that part of all of them, finer, and has it in the address.
    box = view.locator(".card[data-signal=t_out] .nsewdrag").bounding_box()
    middle = box["y"] + box["height"] / 2
    view.mouse.move(box["x"] + box["width"] * 0.48, middle)
    view.mouse.down()
    view.mouse.move(box["x"] + box["width"] * 0.52, middle, steps=5)
    view.mouse.up()
    view.wait_for_function("before => location.hash !== before", arg="", timeout=WAIT_MS)
    view.wait_for_function(
        f"() => ({CHART})('t_in')?.layout?.xaxis && location.hash.includes('2026-03-1')", timeout=WAIT_MS
    )
    view.wait_for_function(drawn + "400", timeout=WAIT_MS)
    begin, end = shown(view)
    assert 0.4 * MONTH_S < begin < 0.5 * MONTH_S < end < 0.6 * MONTH_S

    # The address, sent to somebody else, shows the same.
    other = browser.new_page(viewport={"width": 1480, "height": 900})
    other.goto(view.url)
    other.wait_for_function(drawn + "400", timeout=WAIT_MS)
    assert other.text_content("#chosen") == "oven-2"
    assert shown(other) == pytest.approx((begin, end), abs=1)

    # A time of which nothing is kept says so; half a screen earlier.
    other.click("#ranges button:text-is('hour')")
    other.wait_for_selector("#empty-title:text-is('Nothing is kept of this time')", timeout=WAIT_MS)
    assert "last=hour" in other.url
    other.click("#earlier")
    other.wait_for_function("() => location.hash.includes('from=')", timeout=WAIT_MS)
    assert complaints == []
    for one in (view, other):
        one.close()


def test_charts_are_compared_and_the_link_shows_it(browser: Any, page: Running, lake: Path) -> None:
    begin_ms, hours = (BEGIN_S + 9 * 86_400) * 1000, 6 * 3_600_000
    view = browser.new_page(viewport={"width": 1480, "height": 900}, timezone_id="Europe/Berlin")
    complaints: list[str] = []
    view.on("pageerror", lambda error: complaints.append(str(error)))
    asked = "machine=oven-1&from=2026-03-10T00:00:00Z&to=2026-03-10T06:00:00Z"
    view.goto(f"{page.url}/#{asked}&signal=t_in&signal=t_out&beside=oven-2&earlier=week")
    curves = f"(name) => ({CHART})(name)?.data?.slice(5).map(({{ x, y, line }}) => [x, y, line.dash]) ?? []"
    view.wait_for_function(
        f"() => ({curves})('t_in').length === 2 && ({curves})('t_out').length === 2", timeout=WAIT_MS
    )

    def means(machine: str, days_before: int = 0) -> dict[str, list[float | None]]:
        begin = begin_ms - days_before * 86_400_000
        return {one.signal: one.points.value for one in history(lake, STREAMS, machine, begin, begin + hours, 600)}

    (_, other, other_dash), (x, before, before_dash) = view.evaluate(curves, "t_in")
    assert other_dash != before_dash, "nobody has to tell them apart by colour alone"
    assert [v for v in other if v is not None] == means("oven-2")["t_in"]
    assert [v for v in before if v is not None] == means("oven-1", 7)["t_in"]
    assert begin_ms <= x[0] < x[-1] < begin_ms + hours, "a week earlier lies over now"
    told = view.locator(".card[data-signal=t_in] .curves li").all_inner_texts()
    values = [np.array([v for v in one["t_in"] if v is not None]) for one in (means("oven-1"), means("oven-2"))]
    assert told[:2] == [f"{name}: mean {one.mean():.4g}" for name, one in zip(("here", "oven-2"), values, strict=True)]
    assert told[2].startswith("a week earlier: mean ")
    together = "() => document.querySelector('#together .plot').data?.map(({ yaxis }) => yaxis)"
    view.wait_for_function(f"() => ({together})()?.length === 2", timeout=WAIT_MS)
    assert view.evaluate(together) == ["y", "y2"], "an axis for each, where units are not said"
    names = view.locator("#together .curves li").all_inner_texts()
    assert [name.partition(":")[0] for name in names] == ["t_in", "t_out"]

    # By keys: each control says what it is, and the address what is compared.
    ticked = view.get_by_role("checkbox", name="t_out on the chart of several signals")
    ticked.focus()
    view.keyboard.press("Space")
    view.wait_for_function(f"() => ({together})()?.length === 1", timeout=WAIT_MS)
    assert ticked.evaluate("(tick) => tick === document.activeElement")
    view.get_by_role("button", name="a week earlier").press("Enter")
    view.wait_for_function(f"() => ({curves})('t_in').length === 1", timeout=WAIT_MS)
    assert view.url.partition("#")[2].replace("%3A", ":").replace(".000Z", "Z") == f"{asked}&signal=t_in&beside=oven-2"
    beside = view.get_by_role("combobox", name="Another machine")
    beside.fill("oven-9")
    beside.press("Enter")
    view.wait_for_selector("#toast:has-text(\"There is no machine 'oven-9'\")", timeout=WAIT_MS)
    beside.fill("")
    view.wait_for_function(
        f"() => ({curves})('t_in').length === 0 && !location.hash.includes('beside')", timeout=WAIT_MS
    )

    # Of a week that no table holds nothing is drawn, and it is said.
    view.goto(f"{page.url}/#machine=oven-1&from=2026-03-02T00:00:00Z&to=2026-03-02T06:00:00Z&earlier=week")
    view.wait_for_selector("#compare-said:has-text('Nothing is kept of a week earlier.')", timeout=WAIT_MS)
    assert complaints == []
    view.close()
