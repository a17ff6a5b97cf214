"""Relays: in order, until delivered, beside the loop."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import simulated_parts as parts

from tocsin.contracts import Checkpoint, Message
from tocsin.engine.checkpoint import SqliteStore
from tocsin.engine.outbox import Relay
from tocsin.errors import DeliveryError
from tocsin.testing import world


class Stubborn(parts.Bell):
    """Fails as often as it is told to."""

    def open(self, world: Any) -> Any:
        return StubbornDelivery(self.rung)


class StubbornDelivery:
    def __init__(self, script: dict[str, Any]) -> None:
        self.script = script

    def deliver(self, messages: Sequence[Message]) -> None:
        if self.script["failures"]:
            error = self.script["failures"].pop(0)
            self.script["delivered"] += getattr(error, "delivered", ())
            raise error
        self.script["delivered"] += [m.id for m in messages]
        if len(self.script["delivered"]) == 250:
            self.script["done"].set()

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.script["closed"] = True


def relay(folder: Path, failures: list[Exception]) -> tuple[Relay, dict[str, Any], SqliteStore]:
    store = SqliteStore(folder)
    store.commit(Checkpoint(1, "f"), {"bell": [Message(f"{i:03d}", b"") for i in range(250)]})
    script = {"failures": failures, "delivered": [], "done": threading.Event(), "closed": False}
    return Relay("bell", Stubborn.model_construct(rung=script), store, world(folder)), script, store


def test_tries_again_until_all_is_delivered_in_order(tmp_path: Path) -> None:
    bell, script, store = relay(tmp_path, [DeliveryError("no"), ConnectionResetError("gone")])
    bell.start()
    assert script["done"].wait(20)
    bell.stop(5.0)
    assert script["delivered"] == [f"{i:03d}" for i in range(250)]
    assert store.pending("bell", 1) == []
    assert script["closed"]
    store.close()


def test_waits_longer_after_each_failure_and_is_quick_again_after_a_success(tmp_path: Path) -> None:
    no = DeliveryError("no")
    some = DeliveryError("not all", ["000"])
    bell, script, store = relay(tmp_path, [no, no, no, no, some, no, no])
    waited: list[float] = []
    bell._stop.wait = waited.append  # type: ignore[method-assign, assignment]
    bell.start()
    assert script["done"].wait(20)
    bell.stop(5.0)
    assert waited == [0.05, 0.1, 0.2, 0.4, 0.05, 0.1, 0.2]
    store.close()


def test_a_clean_stop_drains(tmp_path: Path) -> None:
    bell, script, store = relay(tmp_path, [])
    bell.start()
    bell.stop(20.0)
    assert len(script["delivered"]) == 250
    store.close()


def test_what_breaks_a_channel_is_raised_in_the_loop(tmp_path: Path) -> None:
    bell, _, store = relay(tmp_path, [KeyError("defect")])
    bell.start()
    assert bell._thread is not None
    bell._thread.join(20)
    with pytest.raises(KeyError, match="defect"):
        bell.wake()
    bell.stop(0.0)
    assert len(store.pending("bell", 1000)) == 250
    store.close()
