"""Every kind of bad input is set aside with its reason, and costs no good row beside it."""

from __future__ import annotations

import hashlib

import pytest
from bad_inputs import CASES, DECODERS, GOOD, Case

from tocsin.batch import QUARANTINED_BYTES, REJECTED, REJECTED_SCHEMA, Batch
from tocsin.decode._base import raw
from tocsin.decode._reasons import REASONS


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.number}-{c.kind}-{c.what}".replace(" ", "_"))
def test_it_is_set_aside_with_its_reason_and_its_neighbours_stay(case: Case) -> None:
    rows, rejected = case.run()
    good = [{k: v for k, v in row.items() if v is not None} for row in rows]
    expected = {"machine": "m1", "n": 1, "value": 1.5}
    neighbours = [row for i, row in enumerate(good) if case.reason is not None or i != 3]
    assert len(neighbours) == 6
    for row in neighbours:
        assert expected.items() <= row.items()
    assert [r["reason"] for r in rejected] == ([] if case.reason is None else [case.reason])
    if rejected:
        (bad,) = rejected
        assert bad["position"] == 3
        assert bad["payload"] == case.payload[:QUARANTINED_BYTES] or case.kind == "xml"
        assert bad["sha256"] == hashlib.sha256(case.payload).hexdigest() or case.kind == "xml"
        assert bad["detail"]
    else:
        assert len(rows) == 7


def test_every_reason_of_the_closed_list_is_met() -> None:
    elsewhere = {"topic", "csv_header", "influx_syntax", "prometheus_syntax", "pattern_syntax"}
    elsewhere |= {reason for reason in REASONS if reason.startswith(("sparkplug_", "avro_", "protobuf_"))}
    assert {case.reason for case in CASES} - {None} == set(REASONS) - elsewhere


def test_all_of_a_kind_in_one_batch_keep_all_good_rows() -> None:
    for kind, decoder in DECODERS.items():
        cases = [case for case in CASES if case.kind == kind]
        payloads = [p for case in cases for p in (GOOD[kind], case.payload)]
        _, batches = decoder.step(decoder.initial(), Batch(raw(payloads)))
        rows = {batch.port: batch.rows for batch in batches}
        bad = [(2 * i + 1, case.reason) for i, case in enumerate(cases) if case.reason is not None]
        found = rows[REJECTED].select(["position", "reason"]).to_pylist()
        assert [(r["position"], r["reason"]) for r in found] == bad
        assert rows[REJECTED].schema.equals(REJECTED_SCHEMA)
        assert len(rows["out"]) == len(payloads) - len(bad)
