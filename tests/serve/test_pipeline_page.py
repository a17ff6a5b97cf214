"""The pipeline, seen in a real browser beside a real engine: which step rejects, its rows and settings, who is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from plant import wait_for
from servers import free_port

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.feed import SOCKET, PageFeed
from tocsin.engine.wire import streams_of
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.serve.access import Address
from tocsin.serve.app import Running, start
from tocsin.serve.outline import outline

pytestmark = pytest.mark.timeout(120)
WAIT_MS = 20_000
PIPELINE = """
name: plant
folder: {folder}/lake
sources:
  hall:
    source: {{files: {{path: {folder}/hall.ndjson, follow: true}}}}
    decode: {{json: {{columns: {{machine: text, t: float}}}}}}
    key: machine
  yard:
    source: {{mqtt: {{url: "mqtt://127.0.0.1:{away}", topic: yard/#, user: me, password: hunter2}}}}
    decode: {{json: {{columns: {{machine: text, t: float}}}}}}
    key: machine
streams:
  hot:
    from: hall
    steps:
      - keep: t > 80
    sinks: [delta: hot]
  readings:
    from: [hall, yard]
    sinks: [delta: readings]
"""
BAD = '{"machine": "press-1", "t": \n'


class Hall:
    """Writes a good and a bad line, again and again: what is seen is what comes while somebody looks."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.stop = threading.Event()
        self.lines = 0
        self._thread = threading.Thread(target=self._run)
        self._write()
        self._thread.start()

    def _write(self) -> None:
        self.lines += 1
        with self.file.open("a") as file:
            file.write(f'{{"machine": "press-1", "t": {80 + self.lines}}}\n{BAD}')

    def _run(self) -> None:
        while not self.stop.wait(0.2):
            self._write()

    def close(self) -> None:
        self.stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("plant")
    hall = Hall(folder / "hall.ndjson")
    file = folder / "plant.yaml"
    file.write_text(PIPELINE.format(folder=folder, away=free_port()))
    plan = load_with_plan(file, {})[1]
    plan.state_folder.mkdir(parents=True)
    running = start(
        plan.state_folder, plan.folder, Address(port=free_port()), title=plan.name, streams=streams_of(plan),
        outline=outline(plan),
    )  # fmt: skip
    feed = PageFeed(plan.state_folder / SOCKET)
    runner = EmbeddedRunner(plan, feed=feed)
    engine = threading.Thread(target=runner.run)
    engine.start()
    yield running
    runner.stop()
    engine.join(30)
    hall.close()
    feed.close()
    running.stop()


def asked(page: Running, path: str, **params: str) -> Any:
    return httpx.get(f"{page.url}/api/pipeline{path}", params=params, timeout=10).json()


def test_the_last_rows_of_a_part_come_while_they_are_asked_for(page: Running) -> None:
    parts = {part["id"]: part for part in asked(page, "")["parts"]}
    assert list(parts)[:3] == ["hall", "yard", "hot.0.keep"]
    assert asked(page, "/rows", id="hall")["ports"] == [], "nobody has looked at it until now"
    told: dict[str, Any] = {}

    def both_ports() -> bool:
        told.update(asked(page, "/rows", id="hall"))
        return {one["port"] for one in told["ports"]} == {"out", "rejected"} and bool(told["set_aside"])

    wait_for(both_ports, 30)
    out, aside = sorted(told["ports"], key=lambda one: one["port"])
    assert {"key", "time", "t"} <= {column["name"] for column in out["columns"]}
    assert out["rows"][0][0] == "press-1"
    assert aside["rows"][0][0] == told["set_aside"][0]["reason"]
    wait_for(lambda: asked(page, "/rows", id="hot.0.delta")["ports"], 30)
    (into,) = asked(page, "/rows", id="hot.0.delta")["ports"]
    assert (into["part"], into["port"]) == ("hot.0.keep", "out"), "what reaches a sink has left the step before it"
    assert httpx.get(f"{page.url}/api/pipeline/rows", params={"id": "nowhere"}).status_code == 404


def test_one_finds_the_part_that_rejects_and_the_source_that_is_away(browser: Any, page: Running) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    context = browser.new_context(viewport={"width": 1480, "height": 900}, color_scheme="dark")
    view, complaints = context.new_page(), []
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    view.goto(page.url)
    view.wait_for_selector("#link[data-state=live]", timeout=WAIT_MS)
    view.click("#open-pipeline")
    # A source that is away is red, with the reason in words; and a line at the top leads to it, too.
    away = view.locator(".part[data-kind=source][data-state=bad]")
    away.wait_for(timeout=WAIT_MS)
    assert "yard: mqtt" in away.inner_text()
    assert "Nothing has come" in away.locator(".said").inner_text()
    view.wait_for_selector(".part[data-state=bad] .said:has-text('Connection refused')", timeout=WAIT_MS)
    assert "mqtt://127.0.0.1" in away.locator(".said").inner_text()
    # The one that rejects is found, and clicked: its rows, why they were rejected, and its settings.
    odd = view.locator(".part[data-state=odd]")
    odd.wait_for(timeout=WAIT_MS)
    assert odd.count() == 1
    assert "hall: files" in odd.inner_text()
    assert (
        view.locator("#pipeline-said")
        .inner_text()
        .startswith("Needs somebody: source yard. Sets rows aside: source hall")
    )
    odd.click()
    view.wait_for_selector("#part-rows td:has-text('press-1')", timeout=WAIT_MS)
    view.wait_for_selector("#part-rows h4:has-text('rejected')", timeout=WAIT_MS)
    view.wait_for_selector("#part-components dt:has-text('hall.ndjson')", timeout=WAIT_MS)
    before = view.locator(".part[data-kind=step] .rates").inner_text()
    view.wait_for_function(
        "before => document.querySelector('.part[data-kind=step] .rates').textContent !== before", arg=before,
        timeout=WAIT_MS,
    )  # fmt: skip
    assert serious(axe, view) == []
    # By keyboard: to the right stands what reads from it.
    view.focus(".part[aria-pressed=true]")
    view.keyboard.press("ArrowRight")
    assert "keep" in view.evaluate("document.activeElement.querySelector('b').textContent")
    view.keyboard.press("Enter")
    view.wait_for_selector("#part-components dt:has-text('where: t > 80')", timeout=WAIT_MS)
    # On a phone, in light: nothing is cut off, and the graph goes down.
    view.set_viewport_size({"width": 390, "height": 780})
    view.evaluate("document.documentElement.dataset.theme = 'light'")
    view.wait_for_function("document.querySelectorAll('.layer')[1].getBoundingClientRect().left < 60", timeout=WAIT_MS)
    away.click()
    view.wait_for_selector("#part-title:has-text('Source yard')", timeout=WAIT_MS)
    view.wait_for_selector("#part-components dt:has-text('password: (not shown)')", timeout=WAIT_MS)
    assert (
        view.evaluate("[...document.querySelectorAll('.part')].filter((p) => p.getBoundingClientRect().right > 390)")
        == []
    )
    assert serious(axe, view) == []
    view.keyboard.press("Escape")
    view.wait_for_selector("#pipeline", state="hidden", timeout=WAIT_MS)
    assert "part=" not in view.url
    view.click("#ends button:has-text('yard')")
    view.wait_for_selector("#part-title:has-text('Source yard')", timeout=WAIT_MS)
    # Its link shows another person the same part; one to a part that is no longer there says so.
    other = context.new_page()
    other.goto(view.url)
    other.wait_for_selector("#part-title:has-text('Source yard')", timeout=WAIT_MS)
    assert other.locator(".part[aria-pressed=true] b").inner_text() == "yard: mqtt"
    other.evaluate("location.hash = '#part=hot.0.keep'")
    other.wait_for_selector("#part-title:has-text('keep of hot')", timeout=WAIT_MS)
    other.evaluate("location.hash = '#part=cold.0.keep'")
    other.wait_for_selector(
        "#pipeline-said:has-text('There is no part cold.0.keep in this pipeline.')", timeout=WAIT_MS
    )
    assert complaints == []
    context.close()


def serious(axe: Any, view: Any) -> list[tuple[str, list[str]]]:
    wrong = axe.Axe().run(view, context="#pipeline").response["violations"]
    return [
        (one["id"], [node["html"][:160] for node in one["nodes"]][:3])
        for one in wrong
        if one["impact"] in ("serious", "critical")
    ]
