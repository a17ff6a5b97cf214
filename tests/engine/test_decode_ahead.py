"""Batches decoded ahead by several threads: in order, each once, and kept while the decoder cannot take them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tocsin.batch import END, RAW, Batch, empty
from tocsin.decode._base import Traced, raw
from tocsin.decode.json import Json
from tocsin.engine import decode_ahead
from tocsin.engine.decode_ahead import DecodeAhead, DecodePool, wait_for_any
from tocsin.errors import Unavailable

ROWS = 4_000


class Gated(Json):
    """Says which thread decodes which batch, and lets the first batch wait until the second is done."""

    gates: Any = None
    where: Any = None

    def traced(self, state: Any, batch: Batch) -> Traced:
        first = int(batch.rows["payload"][0].as_py()[6:-1])
        if self.gates is not None and first == 0:
            assert self.gates[1].wait(20.0)
        traced = super().traced(state, batch)
        self.where[first // ROWS] = threading.current_thread().name
        if self.gates is not None and first == ROWS:
            self.gates[1].set()
        return traced


def large(number: int) -> Batch:
    padding = b" " * 80
    return Batch(
        raw(
            [
                b'{"n": %d}' % n + padding if n % ROWS else b'{"n": %d}' % n
                for n in range(number * ROWS, (number + 1) * ROWS)
            ]
        )
    )


def values(traced: Traced | None) -> list[int]:
    assert traced is not None
    return [n for batch in traced[1] for n in batch.rows["n"].to_pylist()]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_ahead.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


def test_two_batches_are_decoded_at_once_and_leave_in_order(two_cores: None) -> None:
    gates = {1: threading.Event()}
    decoder = Gated.model_construct(**Json(columns={"n": "int"}).__dict__, gates=gates, where={})
    pool = DecodePool(decoder, threads=True)
    ahead = DecodeAhead(pool)
    for number in range(2):
        ahead.put(large(number), number + 1)
    assert gates[1].wait(20.0)  # the second is done while the first waits for it
    taken = []
    while ahead:
        wait_for_any([ahead], 1.0)
        if (one := ahead.take()) is not None:
            taken.append(one)
    pool.close()
    assert [offset for _, offset, _ in taken] == [1, 2]
    assert [n for *_, traced in taken for n in values(traced)] == list(range(2 * ROWS))
    assert decoder.where[0] != decoder.where[1]


def test_a_small_batch_is_left_to_the_epoch_loop(two_cores: None) -> None:
    ahead = DecodeAhead(DecodePool(Json(columns={"n": "int"}), threads=True))
    ahead.put(Batch(raw([b'{"n": 0}'])), 1)
    assert not wait_for_any([ahead], 1.0)
    taken = ahead.take()
    assert taken is not None
    assert (taken[1], taken[2]) == (1, None)


def test_a_small_batch_is_decoded_by_who_takes_it_where_the_decoder_may_wait(two_cores: None) -> None:
    class Waiting(Gated):
        def may_wait(self) -> bool:
            return True

    decoder = Waiting.model_construct(**Json(columns={"n": "int"}).__dict__, where={})
    ahead = DecodeAhead(DecodePool(decoder, threads=True))
    ahead.put(Batch(raw([b'{"n": 0}'])), 1)
    assert not wait_for_any([ahead], 1.0)
    taken = ahead.take()
    assert taken is not None
    assert values(taken[2]) == [0]
    assert decoder.where == {0: threading.current_thread().name}


def test_a_batch_that_cannot_be_decoded_yet_is_kept_with_all_behind_it(two_cores: None) -> None:
    away = threading.Event()
    away.set()

    class Asking(Json):
        def may_wait(self) -> bool:
            return True

        def traced(self, state: Any, batch: Batch) -> Traced:
            if away.is_set():
                raise Unavailable("the registry is away")
            return super().traced(state, batch)

    pool = DecodePool(Asking(columns={"n": "int"}), threads=True)
    ahead = DecodeAhead(pool)
    for number in range(3):
        ahead.put(large(number), number + 1)
    ahead.put(Batch(empty(RAW), END), 4)
    for _ in range(2):
        wait_for_any([ahead], 20.0)
        with pytest.raises(Unavailable, match="registry"):
            ahead.take()
    away.clear()
    taken: list[Any] = []
    while ahead:
        try:
            wait_for_any([ahead], 20.0)
            one = ahead.take()
        except Unavailable:  # tried by its thread while the registry was away
            continue
        assert one is not None
        taken.append(one)
    pool.close()
    assert [offset for _, offset, _ in taken] == [1, 2, 3, 4]
    assert [n for *_, traced in taken for n in values(traced)] == list(range(3 * ROWS))


def test_one_core_or_no_threads_decode_where_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Json(columns={"n": "int"})
    assert not DecodePool(decoder, threads=False).threads
    monkeypatch.setattr(decode_ahead.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert not DecodePool(decoder, threads=True).threads
    assert DecodePool(decoder, threads=True).room(1) == 1
