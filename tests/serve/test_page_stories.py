"""Stories in a real browser: which sensor, when, how fresh, why, and for those who do not use a mouse."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from plant import wait_for
from servers import free_port
from written_actions import ActionLog

from tocsin.bases import VERDICT, judging
from tocsin.batch import ACTIONS, KEY, TIME, Batch, as_keys, as_times
from tocsin.detect.health import Health
from tocsin.engine.feed import SOCKET, PageFeed
from tocsin.notify.alarm import Alarm
from tocsin.serve.access import Address
from tocsin.serve.app import Running, start

pytestmark = pytest.mark.timeout(120)
WAIT_MS = 20_000
BEARING = "t_bearing"
"""The sensor that is well, whose readings are near to what is expected of the sick one after its fault."""


class Engine:
    """Shows what an engine would: three temperatures of a machine, of which t_out jumps from 60 to 75 and rings.

    It tells its counters twice a second, as an engine does, so that a browser that takes its time still meets it alive.
    """

    def __init__(self, folder: Path, machines: int = 1) -> None:
        self.feed = PageFeed(folder / SOCKET, every_s=0.05)
        self.alarm = Alarm(rule="odd", score=75, unit="°C", advice="Look at the cooler.", latching=False)
        self.state = self.alarm.initial()
        self.names = [f"oven-{i + 1}" for i in range(machines)]
        self.begun_s = int(time.time())
        self.silent = threading.Event()
        self._counters: dict[str, Any] = {}
        self._closed = threading.Event()
        self._beat = threading.Thread(target=self._tell_counters, daemon=True)
        wait_for(lambda: self.feed.listening)
        self.count()
        self._beat.start()

    def tell(self, seconds: range, *, fault: bool = False, machines: int | None = None) -> None:
        """Readings of these seconds since the start."""
        for name in self.names[:machines]:
            count = len(seconds)
            out = np.full(count, 75.0 if fault and name == self.names[0] else 60.0)
            wave = np.sin(np.arange(count))
            columns = {
                "t_in": 20 + wave, "t_out": out + 0.1 * wave, BEARING: 60.0 + 0.3 * wave,
                "expected": np.full(count, 60.0), "lower": np.full(count, 58.0), "upper": np.full(count, 62.0),
                "score": np.where(out > 70, 95.0, 3.0),
            }  # fmt: skip
            names = ("t_in", "t_out", BEARING)
            fields = [*(pa.field(n, pa.float64()) for n in names), *judging(VERDICT, "t_out")]
            times = as_times((self.begun_s + np.array(seconds)) * 1_000_000)
            arrays = [as_keys(pa.array([name] * count)), times, *map(pa.array, columns.values())]
            rows = pa.RecordBatch.from_arrays(arrays, schema=pa.schema([KEY, TIME, *fields]))
            self.feed.offer("judged", Batch(rows))
            self.state, passed = self.alarm.step(self.state, Batch(rows, self.begun_s * 1_000_000))
            for batch in passed:
                self.feed.offer("alarms", batch)
        self.count()

    def count(self, **more: Any) -> None:
        self._counters = {"rows_in": {"plant": 1}, **more}

    def _tell_counters(self) -> None:
        while not self._closed.wait(0.5):
            if not self.silent.is_set():
                self.feed.counters(self._counters)

    def close(self) -> None:
        self._closed.set()
        self._beat.join()
        self.feed.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Running]:
    running = start(tmp_path, address=Address(port=free_port()), title="the plant")
    yield running
    running.process.send_signal(signal.SIGCONT)
    running.stop()


@pytest.fixture
def engine(page: Running, tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    engine.close()


@pytest.fixture
def opened(browser: Any, page: Running) -> Iterator[Callable[..., Any]]:
    """Opens the page in a browser of its own settings, and sees that it complains of nothing."""
    contexts, complaints = [], []

    def open_page(**settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1480, "height": 900}, **settings})
        contexts.append(context)
        view = context.new_page()
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.goto(page.url)
        view.wait_for_selector("#link[data-state=live]", timeout=WAIT_MS)
        return view

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def faulty(engine: Engine) -> None:
    engine.tell(range(-120, -30))
    engine.tell(range(-30, 1), fault=True)


CHART = "name => [...document.querySelectorAll('.card')].find((c) => c.dataset.signal === name)?.querySelector('.plot')"


def test_the_band_stands_on_the_sensor_that_is_judged(engine: Engine, opened: Callable[..., Any]) -> None:
    faulty(engine)
    view = opened()
    band = f"(name) => ({CHART})(name)?.data?.[0].x.length ?? -1"
    marks = f"(name) => ({CHART})(name)?.data?.[3].x.length ?? -1"
    view.wait_for_function(f"() => ({marks})('t_out') > 20", timeout=WAIT_MS)
    view.wait_for_function(f"() => ({band})('{BEARING}') >= 0", timeout=WAIT_MS)
    assert view.evaluate(band, "t_out") > 100
    assert [view.evaluate(band, name) for name in (BEARING, "t_in")] == [0, 0]
    assert [view.evaluate(marks, name) for name in (BEARING, "t_in")] == [0, 0]
    assert view.locator(".card").first.get_attribute("data-signal") == "t_out", "what is odd comes first"


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_charts_and_alarms_show_the_time_of_the_browsers_zone(
    engine: Engine, opened: Callable[..., Any], zone: str
) -> None:
    faulty(engine)
    view = opened(timezone_id=zone)
    view.wait_for_function(f"() => ({CHART})('t_out')?._fullLayout?.xaxis.range", timeout=WAIT_MS)
    assert view.evaluate(f"() => ({CHART})('t_out')._fullLayout.xaxis.range[1]") == engine.begun_s * 1000
    ticks = view.evaluate(f"() => ({CHART})('t_out')._fullLayout.xaxis._vals.map((tick) => [tick.x, tick.text])")
    assert len(ticks) > 1
    clock = "(ms) => new Date(ms).toLocaleTimeString('en-GB')"
    assert [text for _, text in ticks] == [view.evaluate(clock, at) for at, _ in ticks]
    assert view.locator("#zone").inner_text() == zone
    began = view.evaluate("(ms) => new Date(ms).toLocaleTimeString('en-GB')", (engine.begun_s - 30) * 1000)
    assert view.locator(".alarm time").inner_text() == began


def test_without_a_reading_the_page_says_where_to_look(engine: Engine, opened: Callable[..., Any]) -> None:
    view = opened()
    box = view.locator("#empty").bounding_box()
    assert box["y"] < 400, "in sight, not below a void"
    assert "which part waits" in view.locator("#empty-text").inner_text()
    view.click("#empty-pipeline")
    view.wait_for_selector("#pipeline[open]", timeout=WAIT_MS)


def test_an_engine_that_says_nothing_is_shown_as_silent(engine: Engine, opened: Callable[..., Any]) -> None:
    view = opened()
    engine.tell(range(-30, 1))
    view.wait_for_selector(".tile[data-status=running]", timeout=WAIT_MS)
    green = view.evaluate(BORDER)
    engine.silent.set()
    view.wait_for_selector("#link[data-state=lost]:has-text('engine silent')", timeout=WAIT_MS)
    assert "The engine has said nothing since" in view.locator("#stale").inner_text()
    assert view.evaluate(BORDER) != green
    engine.silent.clear()
    engine.tell(range(1, 3))
    view.wait_for_selector("#link[data-state=live]", timeout=WAIT_MS)
    assert view.locator("#stale").is_hidden()
    view.wait_for_function(f"green => ({BORDER})() === green", arg=green, timeout=WAIT_MS)
    engine.close()
    view.wait_for_selector("#link:has-text('engine not connected')", timeout=WAIT_MS)
    assert view.evaluate(BORDER) != green


BORDER = "() => getComputedStyle(document.querySelector('.tile')).borderLeftColor"


def test_a_server_that_is_gone_or_frozen_leaves_nothing_green(
    engine: Engine, page: Running, opened: Callable[..., Any]
) -> None:
    view = opened()
    engine.tell(range(-30, 1))
    view.wait_for_selector(".tile[data-status=running]", timeout=WAIT_MS)
    green = view.evaluate(BORDER)
    page.process.send_signal(signal.SIGSTOP)
    view.wait_for_selector("#link:has-text('server silent')", timeout=WAIT_MS)
    assert "The server has not been heard since" in view.locator("#stale").inner_text()
    assert view.evaluate(BORDER) != green
    page.process.send_signal(signal.SIGCONT)
    view.wait_for_selector("#link[data-state=live]", timeout=WAIT_MS)
    page.stop()
    view.wait_for_selector("#link:has-text('reconnecting')", timeout=WAIT_MS)
    assert view.evaluate(BORDER) != green
    assert view.locator("#stale").is_visible()


def test_an_alarm_says_why_since_when_and_what_to_do_and_leads_there(
    page: Running, tmp_path: Path, opened: Callable[..., Any]
) -> None:
    engine = Engine(tmp_path, machines=2)
    faulty(engine)
    view = opened()
    view.wait_for_selector(".alarm", timeout=WAIT_MS)
    row = view.locator(".alarm")
    facts = row.locator(".facts").inner_text()
    began = view.evaluate("(ms) => new Date(ms).toLocaleTimeString('en-GB')", (engine.begun_s - 30) * 1000)
    for fact in ("active", f"since {began}", "measured 75 °C", "expected 60 °C", "score 95 (limit 75)"):
        assert fact in facts, facts
    assert row.locator(".advice").inner_text() == "What to do: Look at the cooler."
    assert row.locator(".where").inner_text() == "oven-1 · t_out"
    row.locator(".where").click()
    view.wait_for_selector(".card.asked[data-signal=t_out]", timeout=WAIT_MS)
    line = f"() => ({CHART})('t_out')?.layout?.shapes?.[0]?.x0"
    view.wait_for_function(f"{line}", timeout=WAIT_MS)
    assert view.evaluate(line) == (engine.begun_s - 30) * 1000
    assert f"alarm since {began}" in view.locator(".card.asked .moment").inner_text()
    view.click(".tile:has-text('oven-2')")
    view.wait_for_function(f"() => ({CHART})('t_out')?.layout?.shapes?.length === 0", timeout=WAIT_MS)
    assert view.locator(".card.asked").count() == 0, "the other machine has had no alarm"
    row.locator(".where").click()
    view.wait_for_selector(".card.asked[data-signal=t_out]", timeout=WAIT_MS)
    assert view.locator("#chosen").inner_text() == "oven-1"
    engine.close()


@pytest.mark.parametrize("size", [(1480, 900), (390, 844)], ids=["desktop", "phone"])
def test_what_is_abnormal_is_taken_for_the_new_normal_by_a_button(
    engine: Engine, opened: Callable[..., Any], tmp_path: Path, size: tuple[int, int]
) -> None:
    health, alarm = Health(of="vibration", learn=100), Alarm(rule="worn", of="vibration")
    states: list[Any] = [health.initial(), alarm.initial()]
    log = ActionLog(tmp_path, 0)

    def judge(batch: Batch) -> None:
        for i, step in enumerate((health, alarm)):
            states[i], passed = step.step(states[i], batch)
            batch = batch if batch.port == ACTIONS else passed[0]
        for out in passed:
            engine.feed.offer("alarms", out)

    values = np.random.default_rng(1).normal(2, 0.1, 400) + np.where(np.arange(400) < 300, 0, 3)
    times = (engine.begun_s - 350 + np.arange(400)) * 1_000_000
    times[350:] += 3600 * 1_000_000  # after the action, whose time is that of a clock
    columns = [as_keys(pa.array(["motor"] * 400)), as_times(times), pa.array(values)]
    rows = pa.RecordBatch.from_arrays(columns, schema=pa.schema([KEY, TIME, pa.field("vibration", pa.float64())]))
    judge(Batch(rows.slice(0, 350)))
    engine.count()
    view = opened(viewport=dict(zip(("width", "height"), size, strict=True)), timezone_id="America/New_York")
    view.click(".alarm .more summary", timeout=WAIT_MS)
    began = re.search(r"since (.+?) ·", view.locator(".alarm .facts").inner_text())
    assert began is not None
    assert view.locator(".alarm .message").inner_text().endswith(f" at {began[1]}"), "by the same clock, not in UTC"
    for _ in ("light", "dark"):
        assert serious(view) == []
        view.click("#theme")
    view.wait_for_selector(".alarm .relearn:visible", timeout=WAIT_MS)
    assert "vibration jumped above its usual" in view.locator(".alarm .message").inner_text()
    assert "standard deviations away" in view.locator(".alarm .facts").inner_text()
    assert view.locator(".alarm .ignore").inner_text() == "Learn nothing for 1 h"
    view.click(".alarm .relearn")
    wait_for(lambda: (done := log.poll()) is not None and (judge(Batch(done, port=ACTIONS)) or True))
    view.wait_for_selector(".alarm .facts:has-text('relearn by local')", timeout=WAIT_MS)
    judge(Batch(rows.slice(350, 50)))
    view.wait_for_selector(".alarm[data-active=true]", state="detached", timeout=WAIT_MS)
    log.close()


def serious(view: Any) -> list[tuple[str, list[str]]]:
    """What axe finds on the page that keeps people out; what Plotly draws is not ours."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    wrong = axe.Axe().run(view, context={"exclude": [[".plot"]]}).response["violations"]
    grave = [one for one in wrong if one["impact"] in ("serious", "critical")]
    return [(one["id"], [node["html"][:100] for node in one["nodes"]][:3]) for one in grave]


def test_an_alarm_is_labelled_on_the_page_and_the_label_stays(
    engine: Engine, opened: Callable[..., Any], tmp_path: Path
) -> None:
    faulty(engine)
    engine.tell(range(1, 30))  # it has cleared
    log = ActionLog(tmp_path, 0)
    view = opened()
    view.wait_for_selector(".alarm[data-active=false]", timeout=WAIT_MS)
    actions: list[Any] = []

    def press(button: str) -> None:
        view.click(f".alarm {button}")
        wait_for(lambda: (done := log.poll()) is not None and (actions.append(done) or True))
        engine.state, passed = engine.alarm.step(engine.state, Batch(actions[-1], port=ACTIONS))
        engine.feed.offer("alarms", passed[0])

    press(".ack")
    view.locator("#alarm-chips button").last.click()  # all: it is no longer open
    view.wait_for_selector(".alarm .facts:has-text('acknowledged by local')", timeout=WAIT_MS)
    view.click(".alarm .more summary")
    press(".label.false")
    (done,) = actions[-1].to_pylist()
    id = view.locator(".alarm").get_attribute("data-id")
    assert (done["action"], done["by"], done["alarm"]) == ("label_false", "local", f"odd:oven-1#{id}")
    view.wait_for_selector(".alarm .facts:has-text('labelled false by local')", timeout=WAIT_MS)
    assert not view.locator(".alarm .label.false").is_visible()
    assert view.locator(".alarm .label.true").is_visible()
    engine.tell(range(3600, 3630), fault=True)  # rings anew: another alarm, of which nobody has said anything yet
    view.wait_for_selector(".alarm[data-active=true]", timeout=WAIT_MS)
    assert "labelled" not in view.locator(".alarm[data-active=true] .facts").inner_text()
    assert "labelled false" in view.locator(f".alarm[data-id='{id}'] .facts").inner_text()
    log.close()


def test_charts_of_signals_with_an_open_alarm_come_first(engine: Engine, opened: Callable[..., Any]) -> None:
    engine.tell(range(-60, 1))
    view = opened()
    first = "() => document.querySelector('.card')?.dataset.signal"
    view.wait_for_function(f"() => ({first})() === 't_out'", timeout=WAIT_MS)  # the one that is judged
    at = as_times(np.array([engine.begun_s * 1_000_000]))
    schema = pa.schema([KEY, TIME, pa.field("t_in", pa.float64())])
    rows = pa.RecordBatch.from_arrays([as_keys(pa.array(["oven-1"])), at, pa.array([99.0])], schema=schema)
    hot = Alarm(rule="hot", of="t_in", high=90)
    _, passed = hot.step(hot.initial(), Batch(rows))
    engine.feed.offer("alarms", passed[0])
    view.wait_for_function(f"() => ({first})() === 't_in'", timeout=WAIT_MS)


def test_a_tile_says_how_well_a_machine_is_and_how_long_it_has(engine: Engine, opened: Callable[..., Any]) -> None:
    faulty(engine)
    names = ("rul", "rul_lower", "rul_upper", "rul_confidence")
    schema = pa.schema([KEY, TIME, *(pa.field(name, pa.float64()) for name in names)])
    for day, life in enumerate(((100.0, 80.0, 125.0, 0.9), (50.0, 41.0, 63.0, 0.9))):
        at = as_times(np.array([(engine.begun_s + 86_400 * day) * 1_000_000]))
        columns = [as_keys(pa.array(["oven-1"])), at, *(pa.array([one]) for one in life)]
        engine.feed.offer("life", Batch(pa.RecordBatch.from_arrays(columns, schema=schema)))
    view = opened()
    view.wait_for_selector(".tile .well:has-text('41 to 63 days left (90 % sure)')", timeout=WAIT_MS)
    # a score of 95 pulls 0.9 down, half of the life is used up: what is left is 0.1 x 0.5
    assert view.locator(".tile .health").inner_text() == "health 5"
    assert "pulled down by t_out 64 %, remaining life 36 %" in view.locator(".tile .well").inner_text()


def test_an_alarm_of_yesterday_says_its_date(engine: Engine, opened: Callable[..., Any]) -> None:
    engine.tell(range(-90_000, -89_990), fault=True)
    engine.tell(range(-89_990, -89_980), fault=True)
    view = opened(timezone_id="UTC")
    day = time.strftime("%Y", time.gmtime(engine.begun_s - 90_000))
    view.wait_for_selector(f".alarm time:has-text('{day}')", timeout=WAIT_MS)


def test_an_alarm_nobody_has_acknowledged_counts_and_its_machine_is_not_green(
    engine: Engine, opened: Callable[..., Any]
) -> None:
    faulty(engine)
    engine.tell(range(1, 20))  # it is over
    view = opened()
    view.wait_for_selector(".alarm[data-state=CLEARED_UNACK]", timeout=WAIT_MS)
    view.wait_for_function("() => document.getElementById('figure-alarms').textContent === '1'", timeout=WAIT_MS)
    assert view.locator("#box-alarms").get_attribute("title") == "0 active, 1 not acknowledged"
    view.wait_for_selector(".tile[data-status=alarm][data-active=false] .pill:has-text('critical (over)')")
    assert view.locator("#chips .chip:has-text('in alarm') b").inner_text() == "1"
    colours = "() => [getComputedStyle(document.querySelector('.tile')).borderLeftColor, '--critical', '--running']"
    border, critical, running = view.evaluate(
        f"() => {{ const [border, ...names] = ({colours})(); const made = document.createElement('i');"
        "document.body.append(made); return [border, ...names.map((name) => {"
        "made.style.color = `var(${name})`; return getComputedStyle(made).color; })]; }"
    )
    assert border == critical != running


def test_a_new_alarm_is_announced_and_one_that_was_there_is_not(engine: Engine, opened: Callable[..., Any]) -> None:
    view = opened()
    engine.tell(range(-60, 1))
    view.wait_for_selector(".tile[data-status=running]", timeout=WAIT_MS)
    assert view.locator("#announced").inner_text() == ""
    engine.tell(range(1, 5), fault=True)
    view.wait_for_selector("#announced:has-text('New critical alarm: oven-1')", state="attached", timeout=WAIT_MS)
    assert view.locator("#announced").get_attribute("role") == "alert"
    again = opened()
    again.wait_for_selector(".alarm", timeout=WAIT_MS)
    assert again.locator("#announced").inner_text() == ""


def test_tiles_are_one_tab_stop_with_arrow_keys(page: Running, tmp_path: Path, opened: Callable[..., Any]) -> None:
    engine = Engine(tmp_path, machines=6)
    engine.tell(range(-5, 1))
    view = opened()
    view.wait_for_function("() => document.querySelectorAll('.tile').length === 6", timeout=WAIT_MS)
    view.wait_for_function("() => document.querySelectorAll('.tile[tabindex=\"0\"]').length === 1", timeout=WAIT_MS)
    focused = "() => document.activeElement.querySelector('.name')?.textContent"
    view.focus("#chips .chip:last-child")
    view.keyboard.press("Tab")
    assert view.evaluate(focused) == "oven-1"
    for key, name in (("ArrowDown", "oven-2"), ("ArrowRight", "oven-3"), ("ArrowUp", "oven-2"), ("End", "oven-6"),
                      ("ArrowDown", "oven-6"), ("Home", "oven-1"), ("ArrowDown", "oven-2")):  # fmt: skip
        view.keyboard.press(key)
        assert view.evaluate(focused) == name, key
    view.keyboard.press("Enter")
    view.wait_for_function("() => document.getElementById('chosen').textContent === 'oven-2'", timeout=WAIT_MS)
    view.keyboard.press("Tab")
    assert not view.evaluate("() => document.activeElement.classList.contains('tile')"), "one stop"
    view.keyboard.press("Shift+Tab")
    assert view.evaluate(focused) == "oven-2", "and back to where one was"
    view.fill("#filter", "oven-5")
    view.wait_for_function(
        "() => document.querySelector('.tile[tabindex=\"0\"]').textContent.includes('oven-5')", timeout=WAIT_MS
    )
    engine.close()


def test_lagging_sinks_and_silent_sources_are_told_in_words(engine: Engine, opened: Callable[..., Any]) -> None:
    engine.tell(range(-5, 1))
    view = opened()
    sinks = {
        "readings.0.delta": {"lag_epochs": 12, "lag_bytes": 9000, "reason": "the disk is full"},
        "alarms.0.delta": {"lag_epochs": 1, "lag_bytes": 10, "reason": None},
    }
    sources = {
        "plant": {"silent_s": 61.4, "splits": 1, "reason": "the broker does not answer"},
        "files": {"silent_s": 4000.0, "splits": 1, "reason": None},
        "hall": {"silent_s": None, "splits": 0, "reason": "no address"},
    }
    told = view.locator("#ends li")
    engine.count(sinks=sinks, sources=sources)
    wait_for(lambda: told.count() == 3, 20)
    assert told.all_inner_texts() == [
        "Source plant has been silent for 61 s: the broker does not answer.",
        "Source hall has given nothing yet: no address.",
        "Sink readings.0.delta is 12 epochs behind: the disk is full.",
    ]
    engine.count()
    view.wait_for_selector("#ends", state="hidden", timeout=WAIT_MS)


FAINT = """() => {
  const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parts = (text) => { const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a ?? 1]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.unshift(parts(getComputedStyle(at).backgroundColor));
    return layers.reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const faint = [];
  for (const node of document.querySelectorAll('body *')) {
    const style = getComputedStyle(node);
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest('svg, dialog, noscript, .unseen') || node.disabled) continue;
    let alpha = 1;
    for (let at = node; at; at = at.parentElement) alpha *= Number(getComputedStyle(at).opacity);
    const under = behind(node);
    const colour = parts(style.color);
    const [a, b] = [light(over([...colour.slice(0, 3), colour[3] * alpha], under)), light(under)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const name = `${node.className || node.tagName}: ${node.textContent.slice(0, 30)}`;
    if (ratio < (large ? 3 : 4.5)) faint.push(`${name} ${ratio.toFixed(2)}`);
  }
  return faint;
}"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_text_can_be_read(engine: Engine, opened: Callable[..., Any], scheme: str) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5, of alarms that have cleared and of what is old as well."""
    faulty(engine)
    view = opened(color_scheme=scheme)
    view.wait_for_selector(".alarm", timeout=WAIT_MS)
    view.wait_for_selector(".card .now", timeout=WAIT_MS)
    view.click(".alarm .where")
    assert view.evaluate(FAINT) == []
    engine.tell(range(1, 20))
    view.wait_for_selector(".alarm[data-state=CLEARED_UNACK]", timeout=WAIT_MS)
    assert view.evaluate(FAINT) == []
    engine.silent.set()
    view.wait_for_selector("#stale:visible", timeout=WAIT_MS)
    assert view.evaluate(FAINT) == []


def test_the_page_has_one_first_heading_and_every_control_a_name(engine: Engine, opened: Callable[..., Any]) -> None:
    faulty(engine)
    view = opened()
    view.wait_for_selector(".alarm", timeout=WAIT_MS)
    assert view.locator("h1").count() == 1
    levels = view.evaluate(
        "() => [...document.querySelectorAll('main :is(h1,h2,h3), header :is(h1,h2)')].map((h) => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    nameless = """() => [...document.querySelectorAll('button, input')].filter((control) => control.checkVisibility() &&
      !(control.textContent.trim() || control.getAttribute('aria-label') || control.labels?.length)).length"""
    assert view.evaluate(nameless) == 0
    nested = "() => document.querySelectorAll('button :is(div, ul, li, p, button)').length"
    assert view.evaluate(nested) == 0, "a button holds phrases only"
