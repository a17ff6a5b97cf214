"""How parts of a pipeline fare, in words; what a plan looks like from outside, and that no secret is in it."""

from __future__ import annotations

import asyncio
import textwrap
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tocsin.engine.wire import Counted, LastRows, Noticed, Outgoing, PartCounted, Rejected, SinkLag, SourceSilence
from tocsin.output.delta import Delta
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.serve.access import AccessKeys
from tocsin.serve.api import PageContext
from tocsin.serve.app import build
from tocsin.serve.graph_messages import ComponentOutline, Inlet, Outline, PartOutline, Setting
from tocsin.serve.hub import Hub
from tocsin.serve.live import Live
from tocsin.serve.outline import details, outline
from tocsin.serve.parts import LOOKED_S, ODD_S, LookedAt, Parts
from tocsin.testing import rows
from tocsin.world import SystemClock, SystemDisk, World

OUTLINE = Outline(
    [
        PartOutline("plant", "source", "mqtt", "", [], []),
        PartOutline("hot.0.keep", "step", "keep", "hot", [Inlet("plant", "out")], []),
        PartOutline("hot.0.delta", "sink", "delta", "hot", [Inlet("hot.0.keep", "out")], [], table="hot"),
        PartOutline("hot.1.notify", "channel", "notify", "hot", [Inlet("hot.0.keep", "out")], []),
    ]
)
HERE = {"sinks": {"hot.0.delta": SinkLag(0)}, "channels": {"hot.1.notify": Outgoing()}}


def told(*counts: tuple[float, Counted], now_s: float | None = None, by_table: bool = False) -> dict[str, tuple]:
    """State, sentence and rate of each part after these counters, by the first word of its id."""
    parts = Parts()
    for at_s, counted in counts:
        parts.count(counted, at_s)
    states = parts.told(OUTLINE, by_table=by_table, now_s=counts[-1][0] if now_s is None else now_s)
    return {one.id: (one.state, one.said, one.rows_per_s) for one in states}


def running(rows: int, silent_s: float | None = 0.1, *, kept: int | None = None, **more: object) -> Counted:
    passed = rows if kept is None else kept
    given = HERE | {
        "parts": {"plant": PartCounted(passed, 0.3), "hot.0.keep": PartCounted(passed, 0.3)},
        "sources": {"plant": SourceSilence(silent_s, 1)},
    }
    counted = {"rows_in": {"plant": rows}, "rows_into": {"hot.0.delta": passed, "hot.1.notify": passed}}
    return Counted(**counted, **given | more)


def test_rates_are_per_part_and_all_is_well() -> None:
    seen = told(*((float(at), running(100 * at, kept=10 * at)) for at in range(6)))
    assert seen == {
        "plant": ("well", "", 100.0),
        "hot.0.keep": ("well", "", 10.0),
        "hot.0.delta": ("well", "", 10.0),
        "hot.1.notify": ("well", "", 10.0),
    }


def test_a_source_that_is_away_says_why() -> None:
    away = {"plant": SourceSilence(61.0, 1, "the broker at plant:1883 does not answer")}
    state, said, _ = told((0.0, running(5)), (0.5, running(5, sources=away)))["plant"]
    assert (state, said) == ("bad", "Nothing has come for 61 s: the broker at plant:1883 does not answer")


def test_a_source_that_falls_silent_is_told_by_how_often_it_usually_gives_something() -> None:
    steady = [(float(at), running(10 * (at + 1))) for at in range(0, 40, 2)]
    assert told(*steady, (52.0, running(200, 9.0)))["plant"][0] == "well"
    assert told(*steady, (57.0, running(200, 19.0)))["plant"][:2] == (
        "bad", "Silent for 19 s; usually something comes every 2 s",
    )  # fmt: skip
    rare = [(float(at), running(at // 60 + 1)) for at in range(0, 600, 60)]
    assert told(*rare, (590.0, running(10, 50.0)))["plant"][0] == "well", "once a minute is usual there"
    assert told((0.0, running(0, 15.0)))["plant"][:2] == ("bad", "Nothing has come since it was opened, 15 s ago")


def test_a_source_that_has_ended_is_not_silent() -> None:
    ended = running(10, 500.0, parts={"plant": PartCounted(10), "hot.0.keep": PartCounted(10)})
    assert told((0.0, running(10)), (9.0, ended))["plant"][:2] == ("ended", "It has been read to its end")


def test_rows_that_are_set_aside_make_a_part_odd_for_a_minute_and_bad_if_all_are() -> None:
    aside = (Rejected("hot.0.keep", "bad_cast", 2), Rejected("hot.0.keep", "json_syntax", 7, "a brace is missing"))
    counts = ((0.0, running(20)), (1.0, running(30, rejected=aside)))
    assert told(*counts)["hot.0.keep"][:2] == ("odd", "Rows are set aside: json syntax (a brace is missing)")
    assert told(*counts)["plant"][0] == "well", "it is told where it happens"
    assert told(*counts, now_s=2.0 + ODD_S)["hot.0.keep"][0] == "well"
    nothing_left = running(30, rejected=aside, kept=0)
    assert told((0.0, nothing_left), (90.0, nothing_left))["hot.0.keep"][:2] == (
        "bad", "Every row is set aside: json syntax (a brace is missing)",
    )  # fmt: skip


def test_sinks_that_lag_and_channels_that_fail_say_why() -> None:
    late = {"sinks": {"hot.0.delta": SinkLag(12, 9_000, "the disk is full")}}
    refused = {"channels": {"hot.1.notify": Outgoing(reason="https://chat... answers 403")}}
    seen = told((0.0, running(1, **late, **refused)))
    assert seen["hot.0.delta"][:2] == ("bad", "12 epochs behind: the disk is full")
    assert seen["hot.1.notify"][:2] == ("bad", "Nothing is delivered: https://chat... answers 403")
    slow = told((0.0, running(1, sinks={"hot.0.delta": SinkLag(11)})))["hot.0.delta"]
    assert slow[:2] == ("bad", "11 epochs behind: it is slower than what comes")


def test_where_nobody_counts_nothing_is_said_to_be_well() -> None:
    assert {state for state, _, _ in told((0.0, Counted())).values()} == {"unknown"}
    tables = told((0.0, Counted(rows_in={"hot": 0})), (2.0, Counted(rows_in={"hot": 8})), by_table=True)
    assert tables["hot.0.delta"] == ("well", "", 4.0)
    assert {state for id, (state, _, _) in tables.items() if id != "hot.0.delta"} == {"unknown"}


def test_what_a_part_counts_comes_from_all_its_splits() -> None:
    parts = Parts()
    events = (Noticed("plant", "connects", 1), Noticed("plant/a", "connects", 2), Noticed("planted", "connects", 9))
    aside = (Rejected("plant", "a", 1), Rejected("plant", "b", 5, "why"), Rejected("hot.0.keep", "c", 3))
    parts.count(running(1, events=events, rejected=aside), 0.0)
    told = parts.rows(OUTLINE.parts[0], [], "")
    assert told.noticed == {"connects": 3}
    assert [(one.reason, one.rows, one.detail) for one in told.set_aside] == [("b", 5, "why"), ("a", 1, "")]


def test_engines_are_told_what_is_looked_at_for_as_long_as_it_is() -> None:
    looked_at, sent = LookedAt(), []
    looked_at.connect(sent.append)
    looked_at.tell(0.0)
    assert sent == [], "nobody looks"
    looked_at.look("plant", 0.0)
    looked_at.take(LastRows("plant", "out", [], []))
    looked_at.take(LastRows("elsewhere", "out", [], []))
    looked_at.tell(0.1)
    looked_at.tell(0.2)
    assert [data[5:] for data in sent] == [b'["plant"]']
    assert [rows.part for rows in looked_at.rows_of("plant")] == ["plant"]
    assert looked_at.rows_of("elsewhere") == []
    later: list[bytes] = []
    looked_at.connect(later.append)
    assert [data[5:] for data in later] == [b'["plant"]'], "an engine that comes later, too"
    looked_at.disconnect(later.append)
    looked_at.tell(0.3 + LOOKED_S)
    assert [data[5:] for data in sent][1:] == [b"[]"]
    assert looked_at.rows_of("plant") == [], "and what was kept is gone"


SECRETS = ("hunter2", "T0K3N", "B0T")


def test_an_outline_says_how_a_plan_hangs_together_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "plant.yaml"
    file.write_text(
        textwrap.dedent("""
            name: plant
            folder: .
            sources:
              plant:
                source: {mqtt: {url: "mqtts://broker.example", topic: plant/#, user: me, password: hunter2}}
                decode: {json: {columns: {machine: text, t: float}}}
                key: machine
            streams:
              hot:
                steps: [{keep: "t > 80"}]
                sinks:
                  - delta: hot
                  - notify: ["https://hooks.example/services/T0K3N?x=T0K3N", "tgram://B0T/chat"]
        """)
    )
    seen = outline(load_with_plan(file, {})[1])
    text = msgspec.json.encode(seen).decode()
    assert [secret for secret in SECRETS if secret in text] == []
    by_id = {part.id: part for part in seen.parts}
    assert [part.id for part in seen.parts][:3] == ["plant", "hot.0.keep", "hot.0.delta"]
    assert by_id["hot.0.keep"].inputs == [Inlet("plant", "out")]
    assert by_id["quarantine"].inputs == [Inlet("plant", "rejected")]
    assert (by_id["hot.0.delta"].table, by_id["hot.1.notify"].kind) == ("hot", "channel")
    assert [one.name for one in by_id["plant"].components] == ["mqtt", "json", "rekey", "event_time"]
    settings = {one.name: one for one in by_id["plant"].components[0].settings}
    assert (settings["url"].value, settings["password"].value) == ("mqtts://broker.example", "(not shown)")
    assert by_id["plant"].components[0].settings[0].is_default is False, "what somebody has set comes first"
    to = by_id["hot.1.notify"].components[0].settings[0]
    assert to.value == '["https://hooks.example…", "tgram://…"]'
    told = details(by_id["hot.0.keep"].components[0])
    assert [(one.name, one.value) for one in told.settings] == [("where", "t > 80")]
    assert told.settings[0].what, "each setting has its sentence"
    assert "\n" not in told.settings[0].what
    assert {one.name: one.what for one in details(by_id["plant"].components[0]).settings}["password"]


@pytest.mark.parametrize("where", [("/nowhere/x.py", "Gone"), (__file__, "NoSuchClass")])
def test_a_component_whose_source_is_not_there_has_settings_without_sentences(where: tuple[str, str]) -> None:
    told = details(ComponentOutline("gone", "", [Setting("a", "1", False)], [where]))
    assert [(one.name, one.value, one.what) for one in told.settings] == [("a", "1", "")]


def test_beside_an_engine_elsewhere_tables_have_rows_and_the_rest_says_that_it_is_not_known(tmp_path: Path) -> None:
    columns = {"key": ["a"] * 30, "time": [datetime.fromtimestamp(i, UTC) for i in range(30)], "t": range(30)}
    batch = rows(columns)
    place = World(SystemClock(), SystemDisk(), tmp_path, tmp_path / ".state", "plant/hot")
    writer = Delta(path="hot").open(place, batch.schema)
    writer.publish(1, [writer.stage(1, [batch])])
    writer.close()
    page = PageContext("plant", tmp_path, Live(), Hub(), AccessKeys(None), lake_folder=tmp_path, outline=OUTLINE)
    page = replace(page, follows=True)
    app = build(page, hosts=("127.0.0.1",))

    async def got(path: str) -> dict[str, Any]:
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.get(path)).json()

    told = asyncio.run(got("/api/pipeline"))
    assert "runs elsewhere" in told["note"]
    assert {part["state"] for part in told["parts"]} == {"unknown"}
    table = asyncio.run(got("/api/pipeline/rows?id=hot.0.delta"))
    assert [row[2] for row in table["ports"][0]["rows"]] == list(range(29, 9, -1))
    elsewhere = asyncio.run(got("/api/pipeline/rows?id=plant"))
    assert (elsewhere["ports"], "tocsin run" in elsewhere["note"]) == ([], True)
