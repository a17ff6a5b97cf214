"""The page in a real browser: it moves, rings, takes an acknowledgement, and runs nothing that a device sends."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from plant import Plant, wait_for
from servers import Needs, free_port
from written_actions import ActionLog

from tocsin.batch import KEY, TIME, Batch, as_keys, as_times
from tocsin.errors import ConfigError
from tocsin.serve.access import Address
from tocsin.serve.app import Running, start

pytestmark = pytest.mark.timeout(120)
TOKEN = "a-token-of-some-length"
WAIT_MS = 20_000
NEWEST = "Math.max(...(document.querySelector('.card .plot')?.data?.[2]?.x ?? [0]))"


class Watched:
    """A browser's page with all that it complains of."""

    def __init__(self, browser: object, url: str, **settings: object) -> None:
        self.context = browser.new_context(viewport={"width": 1480, "height": 900}, **settings)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog opened"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def newest(self) -> float:
        """Time of the newest point of the first chart."""
        return float(self.page.evaluate(NEWEST))

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Running]:
    running = start(tmp_path, address=Address(port=free_port()), title="the plant")
    yield running
    running.stop()


@pytest.fixture
def plant(page: Running, tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path, past_s=30, fault_after_s=1.0)
    plant.until_heard()
    stop = threading.Event()
    thread = threading.Thread(target=plant.run_until, args=(stop,))
    thread.start()
    yield plant
    stop.set()
    thread.join()
    plant.close()


def test_data_moves_and_an_alarm_is_acknowledged(browser: object, page: Running, plant: Plant) -> None:
    seen = Watched(browser, page.url)
    view = seen.page
    view.wait_for_selector(".card .plot .main-svg", timeout=WAIT_MS)
    view.wait_for_selector(".alarm[data-state=ACTIVE_UNACK]", timeout=WAIT_MS)
    assert view.locator(".tile").count() == 6
    assert view.locator("#chosen").inner_text() == "motor-1", "the machine that alarms is chosen"
    assert view.locator(".tile[data-severity=critical] .name").inner_text() == "motor-1"

    before = seen.newest()
    view.wait_for_function(f"before => {NEWEST} > before + 1000", arg=before, timeout=WAIT_MS)
    assert view.evaluate("document.querySelector('.card .plot').data[0].x.length") > 20, "the usual range is drawn"
    view.wait_for_function(
        "() => document.querySelector('.card .plot')?.data?.[3]?.x.length > 0", timeout=WAIT_MS
    )  # anomalies

    view.click(".alarm .ack")
    view.wait_for_selector(".alarm[data-state=ACTIVE_ACK]", timeout=WAIT_MS)
    assert "acknowledged by local" in view.locator(".alarm .facts").inner_text()
    view.click(".alarm .shelve")
    view.wait_for_selector(".alarm .unshelve:visible", timeout=WAIT_MS)

    view.click(".tile:has-text('pump-2')")
    view.wait_for_selector(".card h3:has-text('outlet_pressure')", timeout=WAIT_MS)
    hovers_and_compares(view)
    view.fill("#filter", "scara")
    view.wait_for_function("() => [...document.querySelectorAll('.tile')].filter(t => !t.hidden).length === 1")
    view.click("#theme")
    assert view.locator("#figure-bad").inner_text() == "12"
    assert view.locator("#link").inner_text() == "live"
    assert seen.complaints == []
    assert all(url.startswith(page.url) for url in seen.asked), "it works without the internet"
    seen.close()


def hovers_and_compares(view: Any) -> None:
    """Of a live chart: the value and the moment under the pointer; another machine's curve, which moves on, too."""
    card = ".card[data-signal=outlet_pressure]"
    plot = view.locator(f"{card} .plot .nsewdrag")
    plot.scroll_into_view_if_needed()
    plot.hover()
    under = (
        f"() => {{ const [value, at] = ['.plot .hovertext', '.at'].map(one => document.querySelector('{card} ' + one));"
        " return value && at.textContent ? [value.textContent, at.textContent] : null; }"
    )
    told = view.wait_for_function(under, timeout=WAIT_MS).json_value()
    assert 3 < float(told[0].replace(",", ".")) < 5, "the outlet pressure, in bar"
    assert re.search(r"\d{2}:\d{2}:\d{2}", told[1])
    view.mouse.move(1, 1)
    view.wait_for_function(f"() => !document.querySelector('{card} .at').textContent", timeout=WAIT_MS)

    beside = view.get_by_role("combobox", name="Another machine")
    beside.fill("pump-1")
    curve = f"(document.querySelector('{card} .plot').data[5]?.x ?? [])"
    view.wait_for_function(f"() => {curve}.length > 10", timeout=WAIT_MS)
    assert "beside=pump-1" in view.url
    name, _, mean = view.locator(f"{card} .curves li").nth(1).inner_text().partition(": mean ")
    assert name == "pump-1"
    assert 4.1 < float(mean) < 4.5, "pump-2 has 3.9"
    newest = view.evaluate(f"Math.max(...{curve})")
    view.wait_for_function(f"newest => Math.max(...{curve}) > newest", arg=newest, timeout=3 * WAIT_MS)
    beside.fill("")
    view.wait_for_function(f"() => !{curve}.length && !location.hash.includes('beside')", timeout=WAIT_MS)


def test_the_page_comes_back_after_a_restart(browser: object, page: Running, plant: Plant, tmp_path: Path) -> None:
    seen = Watched(browser, page.url)
    seen.page.wait_for_selector(".card .plot .main-svg", timeout=WAIT_MS)
    page.stop()
    seen.page.wait_for_selector("#link[data-state=lost]", timeout=WAIT_MS)
    again = start(tmp_path, address=Address(port=int(page.url.rpartition(":")[2])))
    try:
        seen.page.wait_for_selector("#link[data-state=live]", timeout=WAIT_MS)
        before = seen.newest()
        seen.page.wait_for_function(f"before => {NEWEST} > before", arg=before, timeout=WAIT_MS)
    finally:
        seen.close()
        again.stop()


PAYLOADS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "\"><svg onload=alert(1)>",
    "javascript:alert(1)",
    "<b>bold</b><a href='javascript:alert(1)'>x</a>",
    "{{7*7}}${alert(1)}",
    "__proto__",
    "constructor",
    "\u202e\u0000\ud7ff�' OR 1=1 --",
    "</title><style>*{display:none}</style>",
]  # fmt: skip


def test_texts_from_devices_stay_texts(browser: object, page: Running, tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.until_heard()
    count = len(PAYLOADS)
    names = (
        "signal", "state", "id", "rule", "severity", "event", "message", "advice", "unit", "by", "reason", "mode",
    )  # fmt: skip
    texts = {name: pa.array(PAYLOADS) for name in names}
    base = [as_keys(pa.array(PAYLOADS)), as_times(np.arange(count) + int(plant.begun_s * 1e6))]
    head = [KEY, TIME]
    value = pa.array(np.arange(count) * 1.0)
    readings = pa.RecordBatch.from_arrays(
        [*base, texts["signal"], value],
        schema=pa.schema([*head, pa.field("signal", pa.string()), pa.field("value", pa.float64())]),
    )
    wide = pa.RecordBatch.from_arrays(
        [*base, *[value] * count, texts["state"]],
        schema=pa.schema([*head, *(pa.field(p, pa.float64()) for p in PAYLOADS), pa.field("state", pa.string())]),
    )
    alarm_columns = {**texts, "state": pa.array(["ACTIVE_UNACK"] * count), "ring": pa.array([True] * count)}
    alarm_columns["number"] = pa.array(range(count))
    alarms = pa.RecordBatch.from_arrays(
        [*base, *alarm_columns.values()],
        schema=pa.schema([*head, *(pa.field(name, column.type) for name, column in alarm_columns.items())]),
    )
    for stream, rows in ((PAYLOADS[0], readings), (PAYLOADS[1], wide), ("alarms", alarms)):
        plant.feed.offer(stream, Batch(rows))
    plant.feed.counters({"rows_in": {PAYLOADS[0]: 1}, "rejected": [{"source": "x", "reason": PAYLOADS[0], "rows": 1}]})

    seen = Watched(browser, page.url)
    view = seen.page
    view.set_viewport_size({"width": 1480, "height": 2400})  # all tiles are in sight
    view.wait_for_function("n => document.querySelectorAll('.alarm').length === n", arg=count, timeout=WAIT_MS)
    for i in range(count):
        tile = view.locator(".tile").nth(i)
        name = tile.locator(".name").text_content()
        if name not in PAYLOADS:
            continue
        tile.click()
        view.wait_for_function("name => document.getElementById('chosen').textContent === name", arg=name)
        view.wait_for_selector(".card .plot .main-svg", timeout=WAIT_MS)
    shown = set(view.locator(".tile .name").all_text_contents())
    assert shown >= set(PAYLOADS)
    assert set(view.locator(".alarm .message").all_text_contents()) == set(PAYLOADS)
    assert (
        view.locator(
            "main img, main script, main style, main svg[onload], main a:not([href='/api/alarms.csv'])"
        ).count()
        == 0
    )
    for i in range(count):
        view.locator(".alarm").nth(i).locator(".ack").click()
    actions, done = ActionLog(tmp_path, 0), set()
    wait_for(
        lambda: done.update(((rows := actions.poll()) and rows["alarm"].to_pylist()) or ()) or done == set(PAYLOADS)
    )
    actions.close()
    assert seen.complaints == []
    seen.close()
    plant.close()


def test_with_a_token_the_page_asks_for_it(browser: object, needs: Needs, certificates: Path, tmp_path: Path) -> None:
    address = Address(
        port=free_port(), token=TOKEN, tls_cert=certificates / "server.pem", tls_key=certificates / "server.key"
    )
    running = start(tmp_path, address=address)
    plant = Plant(tmp_path, past_s=10)
    plant.until_heard()
    seen = Watched(browser, running.url, ignore_https_errors=True)
    try:
        seen.page.wait_for_selector("#sign-in[open]", timeout=WAIT_MS)
        assert seen.page.locator(".tile").count() == 0
        seen.page.fill("#password", "wrong")
        seen.page.click("#sign-in button")
        seen.page.wait_for_selector("#sign-in-error:has-text('not the token')", timeout=WAIT_MS)
        seen.page.fill("#password", TOKEN)
        seen.page.click("#sign-in button")
        seen.page.wait_for_selector(".card .plot .main-svg", timeout=WAIT_MS)
    finally:
        seen.close()
        plant.close()
        running.stop()


def test_the_page_ends_with_who_started_it_and_a_taken_port_is_named(page: Running, tmp_path: Path) -> None:
    port = int(page.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"{port}.*another port"):
        start(tmp_path / "other", address=Address(port=port))
    assert page.process.stdin is not None
    page.process.stdin.close()  # as the system does when a process dies
    assert page.process.wait(10) == 0
