"""Tests of the sources' kit: a source broken on purpose fails the check that is for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from pydantic import Field
from simulated_parts import raw

from tocsin.batch import END, RAW, Batch, empty
from tocsin.contracts import Offset, Source, Split
from tocsin.testing import source_checks
from tocsin.world import World

LINES: list[bytes] = []
FLAW = {"is": ""}


class Numbers(Source):
    """A list of numbers, sound unless `FLAW` says otherwise."""

    kept: int = 0
    lost: int = Field(0, exclude=True)

    def bounded(self) -> bool:
        return True

    def check(self, world: World) -> None:
        """Says nothing."""

    def open(self, world: World) -> Numbers:
        return self

    def splits(self) -> Sequence[Split]:
        return [Split("0"), Split("0")] if FLAW["is"] == "splits" else [Split("0")]

    def read(self, split: Split, offset: Offset | None) -> NumbersReader:
        return NumbersReader(0 if offset is None else int(offset) + (FLAW["is"] == "offset"))

    def close(self) -> None:
        pass


class NumbersReader:
    def __init__(self, at: int) -> None:
        self.at, self.polled, self.acknowledged, self.closed = at, 0, -1, False

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        if FLAW["is"] == "slow":
            time.sleep(1.5)  # a peer that takes its time
        self.polled += 1
        begin, self.at = self.at, min(self.at + rows_max, len(LINES))
        offset: Any = {self.at} if FLAW["is"] == "json" else self.at
        if begin == self.at:
            return None if FLAW["is"] == "endless" else (Batch(empty(RAW), END), offset)
        rows = raw(LINES[begin : self.at][:: -1 if FLAW["is"] == "order" else 1], begin)
        return Batch(rows.drop_columns(["topic"]) if FLAW["is"] == "schema" else rows), offset

    def acknowledge(self, offset: Offset) -> None:
        assert FLAW["is"] != "acknowledge" or offset != self.acknowledged
        self.acknowledged = offset

    def counters(self) -> Mapping[str, int]:
        return {"polled": -self.polled if FLAW["is"] == "counters" else self.polled}

    def progress(self) -> None:
        return None

    def close(self) -> None:
        assert FLAW["is"] != "close" or not self.closed
        self.closed = True


class Harness:
    def source(self) -> Numbers:
        return Numbers(lost=1) if FLAW["is"] == "settings" else Numbers()

    def send(self, count: int) -> bool:
        LINES.extend(b"%d" % i for i in range(count))
        return True

    def restart(self) -> bool:
        if FLAW["is"] == "restart":
            LINES.clear()
        return True

    def silent(self) -> Numbers:
        return Numbers()

    def absent(self) -> Numbers:
        return Numbers()

    def wrong(self) -> tuple[Numbers, str] | None:
        return (Numbers(), "certificate") if FLAW["is"] == "check" else None


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    LINES.clear()
    yield
    FLAW["is"] = ""


BROKEN: Mapping[Callable[..., None], str] = {
    source_checks.rows_have_the_promised_schema: "schema",
    source_checks.what_is_sent_comes_in_order: "order",
    source_checks.offsets_are_json: "json",
    source_checks.an_old_offset_gives_the_same_rest: "offset",
    source_checks.poll_keeps_its_timeout: "slow",
    source_checks.a_silent_peer_holds_up_nobody: "slow",
    source_checks.an_absent_peer_holds_up_nobody: "slow",
    source_checks.a_restart_of_the_server_is_survived: "restart",
    source_checks.splits_stay_the_same: "splits",
    source_checks.acknowledging_again_is_harmless: "acknowledge",
    source_checks.a_bounded_source_ends: "endless",
    source_checks.counters_never_fall: "counters",
    source_checks.closing_twice_is_no_error: "close",
    source_checks.settings_survive_json: "settings",
    source_checks.what_cannot_work_is_named: "check",
}


@pytest.mark.parametrize("check", source_checks.SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_a_sound_source_passes(check: Any) -> None:
    check(Harness())


@pytest.mark.parametrize(("check", "flaw"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_source_is_found(check: Any, flaw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_checks, "PATIENCE_S", 1.0)
    FLAW["is"] = flaw
    with pytest.raises((AssertionError, TypeError)):
        check(Harness())


def test_each_check_has_its_breaker() -> None:
    assert set(BROKEN) == set(source_checks.SOURCE_CHECKS)
