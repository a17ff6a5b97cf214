"""An alarm is a story: found by a word or by keys, told from the tables, taken along as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from plant import wait_for
from servers import free_port
from written_actions import ActionLog

from tocsin.batch import ACTIONS, Batch
from tocsin.cli import main
from tocsin.engine.audit import Actor
from tocsin.engine.feed import SOCKET, PageFeed
from tocsin.notify.alarm import Alarm
from tocsin.serve.access import Address
from tocsin.serve.app import Running, start
from tocsin.serve.desk import act, list_alarms
from tocsin.serve.evidence import IN_CSV, alarms_as_csv, evidence
from tocsin.testing import rows

pytestmark = pytest.mark.timeout(120)
WAIT_MS = 20_000
BEGIN = datetime(2026, 5, 4, 6, tzinfo=UTC)
HOT = {"press-1": (100, 101, 102), "press-2": (130,), "=press": (299,)}
FILE = """
name: plant
folder: {folder}
source: {{files: {{path: {readings}}}}}
decode: {{json: {{columns: {{machine: category, ts: timestamp, celsius: float}}}}}}
key: machine
time: ts
streams:
  readings: {{sinks: [delta: readings]}}
  alarms:
    from: readings
    steps: [alarm: {{rule: hot, of: celsius, high: 80}}]
    sinks: [delta: alarms, notify: {{to: console, text: "{{event}} {{key}} {{link}}"}}]
page: {{url: "https://plant.example"}}
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three presses over five hours: two were too hot within one hour, the third long after."""
    folder = tmp_path_factory.mktemp("plant")
    lines = [
        {
            "machine": name,
            "ts": (BEGIN + timedelta(minutes=i)).isoformat(),
            "celsius": 90.0 if i in HOT[name] else 60.0 + i % 3,
        }
        for i in range(300)
        for name in HOT
    ]
    (folder / "in.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "plant.yaml").write_text(FILE.format(folder=folder / "data", readings=folder / "in.ndjson"))
    done = CliRunner().invoke(main, ["run", str(folder / "plant.yaml")])
    assert done.exit_code == 0, done.output
    (folder / "told.txt").write_text(done.output)
    return folder / "data"


@pytest.fixture
def page(lake: Path, tmp_path: Path) -> Iterator[Running]:
    running = start(tmp_path, lake, Address(port=free_port()), title="the presses")
    yield running
    running.stop()


@pytest.fixture
def view(browser: Any, page: Running) -> Iterator[Any]:
    view = browser.new_page(viewport={"width": 1480, "height": 900}, timezone_id="UTC")
    complaints: list[str] = []
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto(page.url)
    view.wait_for_function("() => document.querySelectorAll('.alarm').length === 3", timeout=WAIT_MS)
    yield view
    view.close()
    assert complaints == []


def test_an_alarm_tells_what_happened_and_what_else_rang(view: Any) -> None:
    view.fill("#find-alarm", "PRESS-1")
    view.wait_for_function("() => document.querySelectorAll('.alarm').length === 1", timeout=WAIT_MS)
    asked: list[Any] = []
    view.route("**/evidence", lambda route: asked.append(route))  # the tables take their time
    view.click(".alarm .evidence")
    view.wait_for_selector("#story[open]", timeout=WAIT_MS)
    assert view.locator("#story h2").inner_text().startswith("press-1")
    assert view.locator("#story .waiting").inner_text() == "Reading the tables …"
    wait_for(lambda: view.wait_for_timeout(10) or asked)
    asked[0].continue_()
    around = view.locator("#story figure")
    assert re.fullmatch(r"From .*07:40:00 on, for 3 min\.", view.locator("#story .span").inner_text())
    said = "celsius in the hour before: 60 to 62; from then on: 60 to 90. Its limit: 80."
    assert around.locator("figcaption").inner_text() == said
    assert around.locator("svg").get_attribute("aria-label") == said
    assert around.locator("svg .line").get_attribute("points").count(" ") == 119, "a reading a minute, for two hours"
    happened, beside, maintained, before = (one.inner_text() for one in view.locator("#story h3 + *").all())
    assert "07:40:00" in happened
    assert "07:43:00" in happened, "it has cleared three minutes later"
    assert "press-2" in beside
    assert "=press" not in beside, "that one rang hours later"
    assert maintained == "none is written down"
    assert before == "nothing"
    assert "alarms (version" in view.locator("#story .rests").inner_text()
    view.click("#story .show")
    view.wait_for_selector("#story", state="hidden", timeout=WAIT_MS)
    view.wait_for_function("() => document.getElementById('chosen').textContent === 'press-1'", timeout=WAIT_MS)


def test_alarms_are_gone_through_by_keys(view: Any, tmp_path: Path) -> None:
    log = ActionLog(tmp_path, 0)
    focused = "() => document.activeElement.closest('.alarm')?.dataset.id ?? ''"
    ids = view.evaluate("() => [...document.querySelectorAll('.alarm')].map((row) => row.dataset.id)")
    view.locator("#alarms").evaluate("(list) => list.querySelector('.where').focus()")
    walked = []
    for key in ("k", "j", "j", "j", "k"):
        view.keyboard.press(key)
        walked.append(ids.index(view.evaluate(focused)))
    assert walked == [0, 1, 2, 2, 1]
    view.keyboard.press("e")
    view.wait_for_selector("#story[open]", timeout=WAIT_MS)
    view.keyboard.press("a")  # in a dialog a key is no command
    view.keyboard.press("Escape")
    view.wait_for_selector("#story", state="hidden", timeout=WAIT_MS)
    assert view.evaluate(focused) == ids[1], "back to where one was"
    view.keyboard.press("a")
    view.wait_for_selector(f".alarm[data-id='{ids[1]}'] .ack:has-text('…')", timeout=WAIT_MS)
    done: list[dict[str, Any]] = []
    wait_for(lambda: done.extend(rows.to_pylist() if (rows := log.poll()) is not None else ()) or done)
    assert [(one["alarm"], one["action"]) for one in done] == [(ids[1], "acknowledge")]
    log.close()
    view.fill("#find-alarm", "jak")
    assert view.input_value("#find-alarm") == "jak", "who writes gives no commands"


def test_an_alarm_is_shelved_for_a_time_and_with_a_reason(view: Any, tmp_path: Path) -> None:
    log = ActionLog(tmp_path, 0)
    view.fill("#find-alarm", "=press")  # which is still too hot
    view.wait_for_function("() => document.querySelectorAll('.alarm').length === 1", timeout=WAIT_MS)
    view.fill("#reason", "trial run")
    view.select_option("#duration", "8 h")
    begun = datetime.now(UTC)
    view.click(".alarm .shelve:has-text('Shelve 8 h')", timeout=WAIT_MS)
    view.wait_for_selector(".alarm .shelve:has-text('…')", timeout=WAIT_MS)
    told: list[dict[str, Any]] = []
    wait_for(lambda: told.extend(rows.to_pylist() if (rows := log.poll()) is not None else ()) or told)
    (row,) = told
    assert (row["action"], row["reason"]) == ("shelve", "trial run")
    assert timedelta(hours=7.9) < row["until"] - begun < timedelta(hours=8.1)
    assert view.input_value("#reason") == "", "a reason is of one action"
    log.close()


def link_in_message(lake: Path, machine: str) -> str:
    """The link in the message that the run has sent when a machine's alarm was raised."""
    told = (lake.parent / "told.txt").read_text()
    (link,) = re.findall(rf"raised {re.escape(machine)} https://plant\.example(/#alarm=\w+)", told)
    return str(link)


def test_a_message_leads_to_the_story_and_the_alarm_is_found_given_and_commented(
    view: Any, page: Running, lake: Path, tmp_path: Path
) -> None:
    link = page.url + link_in_message(lake, "press-2")
    view.goto("about:blank")
    view.goto(link)
    view.wait_for_selector("#story[open] .rests", timeout=WAIT_MS)
    assert view.locator("#story h2").inner_text() == "press-2 · celsius"
    assert "none is written down" in view.locator("#story .body").inner_text()
    assert serious(view, "#story") == []
    view.keyboard.press("Escape")
    view.wait_for_function("() => !location.hash.includes('alarm=')", timeout=WAIT_MS)

    count = "(n) => document.querySelectorAll('.alarm').length === n"
    view.click("#narrow summary")
    view.click("#severity-chips button:has-text('critical')")
    view.wait_for_function(count, arg=0, timeout=WAIT_MS)
    assert view.locator("#quiet-title").inner_text() == "Nothing fits", "not all quiet"
    view.click("#clear-filters")
    view.wait_for_function(count, arg=3, timeout=WAIT_MS)
    view.click("#severity-chips button:has-text('major')")
    view.select_option("#alarm-state", "active")
    view.wait_for_function(count, arg=1, timeout=WAIT_MS)  # the others are over, and not acknowledged
    view.fill("#view-name", "night shift")
    view.click("#save-view")
    shown = view.evaluate("() => location.hash")
    assert "severity=major&state=active" in shown
    assert serious(view, ".alarms") == []
    view.click("#clear-filters")
    view.wait_for_function(count, arg=3, timeout=WAIT_MS)
    view.reload()
    view.wait_for_function(count, arg=3, timeout=WAIT_MS)
    view.click("#narrow summary")
    view.select_option("#views", "night shift")
    view.wait_for_function(count, arg=1, timeout=WAIT_MS)
    assert view.evaluate("() => location.hash") == shown

    log, feed = ActionLog(tmp_path, 0), PageFeed(tmp_path / SOCKET, every_s=0.05)
    wait_for(lambda: feed.listening)
    alarm = Alarm(rule="hot", of="celsius", high=80)
    began = BEGIN + timedelta(minutes=HOT["=press"][0])
    state, _ = alarm.step(alarm.initial(), Batch(rows({"key": ["=press"], "time": [began], "celsius": [90.0]})))

    def applied(*names: str) -> list[Any]:
        """What the engine does: applies the next action, and shows its row; returns what it says."""
        nonlocal state
        taken: list[Any] = []
        wait_for(lambda: taken.append(log.poll()) or taken[-1] is not None)
        state, passed = alarm.step(state, Batch(taken[-1], port=ACTIONS))
        feed.offer("alarms", passed[0])
        (action,) = taken[-1].to_pylist()
        return [action[name] for name in names]

    view.fill("#person", "bob")
    view.click(".alarm .assign:has-text('Assign to bob')", timeout=WAIT_MS)
    assert applied("action", "assignee", "by") == ["assign", "bob", "local"]
    view.wait_for_selector(".alarm .facts:has-text('given to bob · assigned by local')", timeout=WAIT_MS)
    view.click(".alarm .comment")
    assert view.evaluate("() => document.activeElement.id") == "reason", "a comment needs words"
    view.fill("#reason", "bearing ordered")
    view.click(".alarm .comment")
    assert applied("action", "reason") == ["comment", "bearing ordered"]
    view.wait_for_selector(".alarm .said:has-text('Comment by local: bearing ordered')", timeout=WAIT_MS)
    view.locator(".alarm .where").focus()
    view.keyboard.press("s")
    assert applied("action") == ["shelve"]
    told = view.locator("#alarm-keys").inner_text()
    for words in ("j and k go", "a acknowledges", "s shelves", "e shows"):
        assert words in told
    feed.close()
    log.close()


def serious(view: Any, part: str) -> list[str]:
    """What axe finds in a part of the page that keeps people out."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    wrong = axe.Axe().run(view, context=part).response["violations"]
    return [f"{one['id']}: {one['help']}" for one in wrong if one["impact"] in ("serious", "critical")]


def test_on_a_phone_the_sick_machine_is_found_dealt_with_and_shown_to_others(view: Any, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    log = ActionLog(tmp_path, 0)
    view.set_viewport_size({"width": 390, "height": 844})

    # The first alarm can be read without scrolling in the list, and nobody is told of keys.
    first, of_all = (view.locator(one).first.bounding_box() for one in (".alarm", "#alarms"))
    assert first["y"] + first["height"] <= of_all["y"] + of_all["height"]
    assert not view.locator("#alarm-keys .keys").is_visible()

    # Which machine needs somebody, and what has happened; the story fits, and can be read in light and dark.
    assert view.locator(".tile").first.locator(".name").inner_text() == "=press"
    view.locator(".tile").first.click()
    view.wait_for_function("() => document.getElementById('chosen').textContent === '=press'", timeout=WAIT_MS)
    top = "document.getElementById('chosen').getBoundingClientRect().top"
    view.wait_for_function(f"() => {top} >= 0 && {top} < innerHeight", timeout=WAIT_MS)
    for _ in ("light", "dark"):
        view.click(".alarm:has-text('=press') .evidence")
        view.wait_for_selector("#story[open] svg", timeout=WAIT_MS)
        scale = view.evaluate(
            "() => { const b = document.querySelector('#story svg'); return b.clientWidth / b.viewBox.baseVal.width; }"
        )
        assert scale > 0.9, "the picture's texts can be read"
        box = view.locator("#story").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        wrong = axe.Axe().run(view, context="#story").response["violations"]
        assert [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in wrong] == []
        view.click("#story .close")
        view.click("#theme")

    # Somebody takes care, says why, keeps it silent for the shift, and says what it was.
    done: list[dict[str, Any]] = []
    for button, action, reason in (
        ("ack", "acknowledge", "cooler is being cleaned"), ("shelve", "shelve", "for the shift"),
        ("true", "label_true", "bearing"),
    ):  # fmt: skip
        if action == "label_true":
            view.click(".alarm:has-text('=press') .more summary")
        view.fill("#reason", reason)
        view.click(f".alarm:has-text('=press') .{button}")
        wait_for(lambda: done.extend(rows.to_pylist() if (rows := log.poll()) is not None else ()) or done)
        assert [(one["action"], one["reason"]) for one in done] == [(action, reason)]
        done.clear()
        view.reload()  # the engine is away, so its answer does not come
        view.wait_for_selector(".alarm:has-text('=press') .ack:enabled", timeout=WAIT_MS)
    log.close()

    # A week back, and the link to it for somebody else.
    view.click("#ranges button:text-is('week')")
    view.click("#earlier")
    view.click("#earlier")
    view.click("#week")
    view.wait_for_function("() => location.hash.includes('earlier=week')", timeout=WAIT_MS)
    assert view.evaluate("() => document.scrollingElement.scrollWidth") == 390, "nothing sticks out"
    shown, link = [view.input_value(f"#{end}") for end in ("from", "to")], view.url
    view.goto("about:blank")
    view.goto(link)
    view.wait_for_function("() => document.getElementById('chosen').textContent === '=press'", timeout=WAIT_MS)
    assert [view.input_value(f"#{end}") for end in ("from", "to")] == shown
    assert view.locator("#week").get_attribute("aria-pressed") == "true"


def test_alarms_as_csv_hold_no_formula_and_what_is_not_there_is_said(page: Running) -> None:
    answered = httpx.get(f"{page.url}/api/alarms.csv")
    rows = list(csv.DictReader(io.StringIO(answered.text)))
    assert answered.headers["content-type"] == "text/csv; charset=utf-8"
    assert sorted(row["key"] for row in rows) == ["'=press", "press-1", "press-2"]
    assert {row["severity"] for row in rows if row["rule"] == "hot"} != {""}
    (id,) = (row["id"] for row in rows if row["key"] == "press-2")
    told = httpx.get(f"{page.url}/api/alarms/{id}/evidence").json()
    assert told["alarm"]["key"] == "press-2"
    unknown = httpx.get(f"{page.url}/api/alarms/none/evidence")
    assert (unknown.status_code, "yet" in unknown.json()["error"]) == (404, True)


def test_the_evidence_has_the_last_maintenance_and_who_said_it(lake: Path, tmp_path: Path) -> None:
    (row,) = (row for row in list_alarms(lake, everything=True).to_pylist() if row["key"] == "press-1")
    assert evidence(lake, tmp_path, row["id"])["maintenance"] == [], "nobody has done anything yet"
    ann = Actor("ann", "operator", "page")
    for name, why in (("health:press-1", "oil"), ("hot:press-1/bearing", "bearing"), ("hot:press-2", "belt")):
        act(tmp_path, name, "maintained", "ann", why, actor=ann)
    act(tmp_path, "hot:press-1", "relearn", "ann", actor=ann)
    told = evidence(lake, tmp_path, row["id"])["maintenance"]
    assert [(one["alarm"], one["by"], one["reason"], one["audit"]) for one in told] == [
        ("hot:press-1/bearing", "ann", "bearing", 2), ("health:press-1", "ann", "oil", 1),
    ]  # fmt: skip
    (tmp_path / "actions.db").write_bytes(b"no database at all" * 100)
    assert evidence(lake, tmp_path, row["id"])["maintenance"] is None


def test_where_nothing_can_ring_the_csv_has_its_header_only(tmp_path: Path) -> None:
    assert alarms_as_csv(tmp_path).decode() == ",".join(f'"{name}"' for name in IN_CSV) + "\n"


@pytest.mark.parametrize(
    ("language", "number", "moment", "tick", "sentence"),
    [
        (
            "de-DE",
            "21,5",
            "4. Mai 2026 06:00:00",
            "5. Mai",
            "M 1.5 odd: Load of v1.5 is 0,25 at 4. Mai 2026 06:00:00",
        ),
        (
            "en-US",
            "21.5",
            "May 4, 2026 06:00:00",
            "May 5",
            "M 1.5 odd: Load of v1.5 is 0.25 at May 4, 2026 06:00:00",
        ),
    ],
)
def test_numbers_and_dates_are_written_in_the_browsers_language(
    browser: Any, page: Running, language: str, number: str, moment: str, tick: str, sentence: str
) -> None:
    context = browser.new_context(locale=language, timezone_id="UTC")
    view = context.new_page()
    view.goto(page.url)
    written = """async (at) => {
      const why = "value of v1.5 is 0.25 at 06:00:00 on 2026-05-04 (UTC)";
      const { show } = await import("/chart.js");
      const { clock, when } = await import("/clock.js");
      return [show(21.5), when(at), clock.ticks(at, at + 3 * 86400000, 3).texts[0],
        clock.worded("M 1.5 odd: " + why, why, "Load")];
    }"""
    assert view.evaluate(written, BEGIN.timestamp() * 1000) == [number, moment, tick, sentence]
    context.close()
