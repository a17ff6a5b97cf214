"""Tests of the sinks' kit: a sink broken on purpose fails the check that is for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from pydantic import Field
from sinks import DeltaHarness, FilesHarness, LedgerHarness

from tocsin.contracts import Sink, Token
from tocsin.errors import TocsinError
from tocsin.output._template import Template, TemplateWriter
from tocsin.output.delta import Delta
from tocsin.testing import sink_checks
from tocsin.testing.simulated import SimulatedDisk
from tocsin.world import World

FOUND = (AssertionError, ValueError, OSError, TocsinError)


class Eager(TemplateWriter):
    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        self.apply(epoch, pa.Table.from_batches(rows, self.schema))
        return super().stage(epoch, rows)


class Forgetful(TemplateWriter):
    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        self.apply(epoch, pa.concat_tables([self._staged(str(token["file"])) for token in tokens]))


class Remembering(TemplateWriter):
    last: int | None = None

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        super().publish(epoch, tokens)
        self.last = epoch

    def published(self) -> int | None:
        return self.last


class OneAtATime(TemplateWriter):
    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        super().publish(epoch, tokens[:1])


class Tidy(TemplateWriter):
    def discard(self, keep: Sequence[Token]) -> None:
        super().discard(())


class Lazy(TemplateWriter):
    def apply(self, epoch: int, rows: pa.Table) -> None:
        if rows.num_rows:
            super().apply(epoch, rows)


class Nameless(TemplateWriter):
    def applied(self) -> int | None:
        with closing(self._connected()) as db, db:
            found: int | None = db.execute("select max(epoch) from epochs").fetchone()[0]
        return found


class Narrow(TemplateWriter):
    def apply(self, epoch: int, rows: pa.Table) -> None:
        super().apply(epoch, rows.slice(0, 0) if "more" in rows.schema.names else rows)


class Sweeping(TemplateWriter):
    def housekeep(self) -> None:
        with closing(self._connected()) as db, db:
            db.execute("delete from rows where rowid = 1")


class Shared(TemplateWriter):
    latest: Token = {}

    def stage(self, epoch: int, rows: Sequence[pa.RecordBatch]) -> Token:
        self.latest = super().stage(epoch, rows)
        return self.latest

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        time.sleep(0.02)  # the next epoch is staged meanwhile, as it is beside a slow peer
        super().publish(epoch, [self.latest])


class Complete(TemplateWriter):
    def apply(self, epoch: int, rows: pa.Table) -> None:
        super().apply(epoch, pa.Table.from_pylist([r for r in rows.to_pylist() if None not in r.values()], rows.schema))


class Wordy(TemplateWriter):
    def counters(self) -> Mapping[str, int]:
        return {"rows": "many"}  # type: ignore[dict-item]


class Lax(Delta):
    def check(self, world: World) -> None:
        """Says nothing."""


class LaxHarness(DeltaHarness):
    def leaving(self) -> Lax:
        return Lax(path="../t")


class Secretive(Sink):
    """Loses a setting on the way through JSON."""

    hidden: int = Field(0, exclude=True)

    def open(self, world: World, schema: pa.Schema) -> Any:
        raise NotImplementedError


class Boastful(Template):
    """Says that a writer in whose place another one was opened does no harm, and writes twice."""

    FENCED: ClassVar[bool] = True

    def open(self, world: World, schema: pa.Schema) -> TemplateWriter:
        return Forgetful(self, world, schema)


class BoastfulHarness(LedgerHarness):
    def sink(self) -> Sink:
        return Boastful(path="t.db")


class SecretiveHarness(LedgerHarness):
    def sink(self) -> Sink:
        return Secretive(hidden=1)


def _ledger(writer: type[TemplateWriter]) -> Callable[[], LedgerHarness]:
    return lambda: LedgerHarness(writer)


BROKEN = [
    (sink_checks.published_rows_are_visible_and_staged_ones_are_not, _ledger(Eager)),
    (sink_checks.publishing_twice_is_once, _ledger(Forgetful)),
    (sink_checks.published_is_read_from_the_table, _ledger(Remembering)),
    (sink_checks.several_epochs_are_published_at_once, _ledger(OneAtATime)),
    (sink_checks.discarding_keeps_what_it_is_told, _ledger(Tidy)),
    (sink_checks.an_epoch_without_rows_is_no_error, _ledger(Lazy)),
    (sink_checks.two_names_do_not_touch, _ledger(Nameless)),
    (sink_checks.a_writer_that_was_replaced_does_no_harm, lambda: BoastfulHarness(Forgetful)),
    (sink_checks.a_column_more_is_taken, _ledger(Narrow)),
    (sink_checks.housekeeping_changes_no_rows, _ledger(Sweeping)),
    (sink_checks.rows_are_staged_while_others_are_published, _ledger(Shared)),
    (sink_checks.every_type_arrives_or_is_refused_by_name, _ledger(Complete)),
    (sink_checks.a_path_that_leaves_is_refused, LaxHarness),
    (sink_checks.counters_are_numbers_and_closing_twice_is_no_error, _ledger(Wordy)),
    (sink_checks.settings_survive_json, SecretiveHarness),
]


@pytest.mark.parametrize(("check", "harness"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_sink_is_found(check: Any, harness: Callable[[], Any]) -> None:
    with pytest.raises(FOUND):
        check(harness())


def test_what_a_crash_tears_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedDisk, "truncate", lambda self, path, size: None)
    with pytest.raises(FOUND):
        sink_checks.a_crash_at_any_step_neither_loses_nor_doubles(FilesHarness("ndjson"))


def test_what_was_never_synced_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedDisk, "sync", lambda self, path: None)
    with pytest.raises(FOUND):
        sink_checks.a_power_cut_at_any_step_neither_loses_nor_doubles(DeltaHarness())


def test_each_check_has_its_breaker() -> None:
    crashed = {"a_crash_at_any_step_neither_loses_nor_doubles", "a_power_cut_at_any_step_neither_loses_nor_doubles"}
    assert {check.__name__ for check, _ in BROKEN} | crashed == {check.__name__ for check in sink_checks.SINK_CHECKS}
