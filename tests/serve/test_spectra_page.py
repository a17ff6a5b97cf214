"""Spectrum and waterfall on the page: a motor whose outer race fails, from its waveforms to a real browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from servers import free_port

from tocsin.cli import main
from tocsin.serve.access import Address
from tocsin.serve.app import Running, start
from tocsin.serve.spectra import Asked, drawn, spectra

pytestmark = pytest.mark.timeout(120)
WAIT_MS = 20_000
BEGIN_MS = 1_767_600_000_000  # 2026-01-05T08:00:00Z
MINUTE_MS = 60_000
MINUTES = 8
FAULTY_FROM = 4
PIPELINE = f"""
name: vibration
source:
  simulate:
    machines: {{hall/motor-1: motor, hall/motor-2: motor}}
    start: 2026-01-05T08:00:00Z
    duration: {MINUTES}m
    every: 5s
    rate: 0
    stops_per_day: 0
    waveforms: {{samples: 4096, rate: 12000}}
    faults: [{{name: outer_race, machine: hall/motor-1, start: {FAULTY_FROM}m, growth: 4m}}]
streams:
  vibration:
    steps: [spectrum: {{rate: rate, speed: speed, bearing: "6205", spectra: 300}}]
    sinks: [delta: vibration]
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("motors")
    (folder / "vibration.yaml").write_text(PIPELINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(main, ["run", "vibration.yaml"])
    assert done.exit_code == 0, done.output
    return folder / "tocsin-data"


@pytest.fixture(scope="module")
def page(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start(tmp_path_factory.mktemp("state"), lake, Address(port=free_port()))
    yield running
    running.stop()


def asked(machine: str = "hall/motor-1", kind: str = "envelope", **named: Any) -> Asked:
    return Asked(machine=machine, kind=kind, **{"ends_ms": None, "at_ms": None, "cells": 96, "lines": 300, **named})


def test_the_line_of_the_damaged_part_grows_with_time_and_the_waterfall_shows_it(lake: Path) -> None:
    told = spectra(lake, asked())
    assert (told.kinds, told.kind, told.unit) == (["acceleration", "envelope"], "envelope", "(m/s²)²")
    assert told.fault == "outer race"
    outer = told.faults[0]
    assert (outer.name, outer.part, outer.is_named) == ("BPFO", "outer race", True)
    assert [one.is_named for one in told.faults[1:]] == [False] * 3
    width = told.top_hz / len(told.amplitudes)
    highest = (int(np.argmax(told.amplitudes)) + 0.5) * width
    assert highest == pytest.approx(outer.hz, abs=0.02 * outer.hz + width)

    fall = told.waterfall
    assert fall is not None
    levels = np.frombuffer(fall.levels, np.uint8).reshape(fall.cells, fall.lines).astype(int)
    line = int(outer.hz / fall.top_hz * fall.lines)
    at_bpfo = levels[:, line - 2 : line + 3].max(axis=1)
    early, late = at_bpfo[:20].mean(), at_bpfo[-10:].mean()
    assert late > early + 80
    assert at_bpfo.max() == 255, "the highest of all is at full scale"
    assert spectra(lake, asked("hall/motor-2")).fault == ""


def test_a_moment_and_a_range_are_what_is_asked_for(lake: Path) -> None:
    early = (BEGIN_MS, BEGIN_MS + 2 * MINUTE_MS)
    told = spectra(lake, asked(ends_ms=early, at_ms=BEGIN_MS + MINUTE_MS, cells=24))
    assert (told.at_ms, told.fault) == (BEGIN_MS + MINUTE_MS, "")
    assert told.waterfall is not None
    assert (told.waterfall.begin_ms, told.waterfall.cell_ms, told.waterfall.cells) == (BEGIN_MS, 5000, 24)
    nothing = spectra(lake, asked(ends_ms=(BEGIN_MS - 2 * MINUTE_MS, BEGIN_MS - MINUTE_MS)))
    assert (nothing.kinds, nothing.at_ms, nothing.waterfall) == (["acceleration", "envelope"], None, None)
    assert spectra(lake, asked("nobody")).kinds == []
    few = spectra(lake, asked(cells=5, lines=50))
    assert few.waterfall is not None
    assert (few.waterfall.cells, few.waterfall.lines, len(few.amplitudes)) == (5, 50, 50)


def test_what_lies_together_is_told_by_its_highest() -> None:
    spectrum = np.random.default_rng(3).random(1000)
    for count in (1, 7, 333, 1000):
        told = drawn(spectrum, 1.0, 1000.0, count)
        edges = np.arange(count + 1) * 1000.0 / count
        for i in range(count):
            begin, end = int(np.floor(edges[i] + 1e-9)), int(np.ceil(edges[i + 1] - 1e-9))
            assert told[i] == spectrum[begin:end].max()


@pytest.mark.parametrize("wrong", ["from=5&to=1", "from=x&to=9", "from=1", "at=-1", "cells=0", "lines=100000"])
def test_a_question_that_means_nothing_is_refused(page: Running, wrong: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="422"):
        urllib.request.urlopen(f"{page.url}/api/spectra?machine=hall/motor-1&{wrong}", timeout=10)


def test_levels_travel_as_base64(page: Running) -> None:
    told = json.load(
        urllib.request.urlopen(f"{page.url}/api/spectra?machine=hall/motor-1&cells=10&lines=40", timeout=30)
    )
    assert len(b64decode(told["waterfall"]["levels"])) == told["waterfall"]["cells"] * told["waterfall"]["lines"]


DRAWN = """() => {
  const canvas = document.getElementById('waterfall');
  const pixels = canvas.getContext('2d').getImageData(46, 0, canvas.width - 58, canvas.height).data;
  let bright = 0;
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i] > 220 && pixels[i + 1] > 120) bright++;
  return bright;
}"""


def until(view: Any, condition: str) -> None:
    said = "const said = document.getElementById('spectrum-said').textContent"
    view.wait_for_function(f"() => {{ {said}; return {condition}; }}", timeout=WAIT_MS)


def test_the_page_draws_them_with_the_lines_of_the_bearing(browser: Any, page: Running) -> None:
    view = browser.new_page(viewport={"width": 1480, "height": 1000})
    complaints: list[str] = []
    view.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto(f"{page.url}/#machine=hall%2Fmotor-1")
    view.wait_for_selector("#spectrum-plot .main-svg", timeout=WAIT_MS)
    said = view.locator("#spectrum-said")
    assert "outer race damaged" in said.inner_text()
    words = view.evaluate("document.getElementById('spectrum-plot').layout.annotations.map((one) => one.text)")
    assert {"BPFO", "BPFI", "BSF", "FTF", "2×", "5×"} <= set(words), "of the named part each harmonic has its number"
    lines = view.evaluate("document.getElementById('spectrum-plot').layout.shapes.map((one) => one.x0)")
    assert lines[1] == pytest.approx(2 * lines[0]), "harmonics are multiples"
    view.wait_for_function(f"() => ({DRAWN})() > 50", timeout=WAIT_MS)
    last = "document.querySelector('#spectrum-table tr td:last-child').textContent"
    assert view.evaluate(last) == "damaged"

    view.locator("#spectrum-moment").focus()
    view.keyboard.press("Home")  # the first moment, when nothing was wrong
    until(view, "!said.includes('damaged')")
    view.select_option("#spectrum-kind", "acceleration")
    until(view, "said.includes(', m/s²')")
    box = view.locator("#waterfall").bounding_box()
    view.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 2)
    until(view, "said.includes('damaged')")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    wrong = axe.Axe().run(view, context="#vibration").response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in wrong if one["impact"] in ("serious", "critical")] == []
    assert complaints == []
    view.close()


def test_on_a_phone_a_machine_that_is_tapped_comes_into_view(browser: Any, page: Running) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    view = context.new_page()
    view.goto(page.url)
    view.wait_for_selector(".tile:has-text('hall/motor-2')", timeout=WAIT_MS)
    view.tap(".tile:has-text('hall/motor-2')")
    view.wait_for_function("() => document.getElementById('chosen').textContent === 'hall/motor-2'", timeout=WAIT_MS)
    top = "document.getElementById('chosen').getBoundingClientRect().top"
    view.wait_for_function(f"() => {top} >= 0 && {top} < innerHeight / 2", timeout=WAIT_MS)
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"
    context.close()
