"""Delivery of what waits in the outbox: one relay a channel, beside the epoch loop and never in its way."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Mapping
from typing import Any

from tocsin.contracts import Channel, CheckpointStore, Delivery
from tocsin.errors import DeliveryError
from tocsin.world import World

logger = logging.getLogger(__name__)

MESSAGES_MAX = 100
COUNTED_MAX = 100_000
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 30.0


class Relay:
    """Takes one channel's messages from the outbox, in order, until they are delivered.

    `round` does one attempt; `start` keeps doing them in a thread, waiting longer after each failure.
    """

    def __init__(self, id: str, channel: Channel, store: CheckpointStore, world: World) -> None:
        self.id = id
        self._channel = channel
        self._store = store
        self._world = world
        self.delivery: Delivery | None = None
        """Once there was something to deliver."""
        self._stop = threading.Event()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._broken: Exception | None = None
        self.reason: str | None = None
        """Why the last try failed; None where it did not."""
        self._delivered = self._left = 0

    def round(self) -> bool:
        """Deliver some messages and mark them. Returns whether there were any; `DeliveryError` if some are left."""
        messages = self._store.pending(self.id, MESSAGES_MAX)
        if not messages:
            return False
        if self.delivery is None:
            self.delivery = self._channel.open(self._world)
        try:
            self.delivery.deliver(messages)
        except DeliveryError as error:
            if error.delivered:
                self._store.delivered(self.id, list(error.delivered))
                self._delivered += len(error.delivered)
            self.reason = str(error)
            raise
        self._store.delivered(self.id, [message.id for message in messages])
        self._delivered += len(messages)
        self.reason = None
        return True

    def drain(self, timeout_s: float) -> int:
        """Wait until the outbox is empty, or until the channel has failed for so long. Returns how many are left."""
        clock = self._world.clock
        until_s = clock.monotonic_s() + timeout_s
        while self._broken is None and self._store.pending(self.id, 1):
            if self.reason is None:
                until_s = clock.monotonic_s() + timeout_s
            elif clock.monotonic_s() >= until_s:
                break
            if self._thread is None:
                self.wake()
            clock.sleep(0.01)
        self._left = len(self._store.pending(self.id, COUNTED_MAX))
        return self._left

    def snapshot(self) -> dict[str, Any]:
        """Returns how many messages were delivered, how many `drain` has left waiting, and why, as JSON."""
        return {"delivered": self._delivered, "waiting": self._left, "reason": self.reason}

    def counters(self) -> Mapping[str, int]:
        """Returns what the channel counts."""
        return self.delivery.counters() if self.delivery is not None else {}

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"relay {self.id}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There may be something new: deliver it now, if there is no thread. Raises what broke the thread, if so."""
        if self._broken is not None:
            raise self._broken
        self._news.set()
        if self._thread is None:
            try:
                while self.round():
                    pass
            except DeliveryError as error:
                logger.warning("%s: %s; tried again after the next epoch", self.id, error)

    def stop(self, drain_s: float) -> None:
        """Try to empty the outbox for so long, then stop; what is left is delivered after the next start."""
        self._stop.set()
        if drain_s:
            self.wake()
        self._news.set()
        if self._thread is not None:
            self._thread.join(drain_s)
        if self.delivery is not None and (self._thread is None or not self._thread.is_alive()):
            self.delivery.close()

    def _run(self) -> None:
        try:
            self._deliver_all()
        except Exception as error:  # a defect of the channel: the epoch loop raises it, see `wake`
            self._broken = error

    def _deliver_all(self) -> None:
        backoff_s = 0.0
        while True:
            try:
                more = self.round()
                backoff_s = 0.0
            except (DeliveryError, OSError, sqlite3.Error) as error:
                if self._stop.is_set():
                    return
                came_on = isinstance(error, DeliveryError) and bool(error.delivered)
                backoff_s = BACKOFF_MIN_S if came_on else min(max(2 * backoff_s, BACKOFF_MIN_S), BACKOFF_MAX_S)
                logger.warning("%s: %s; tried again in %.1f s", self.id, error, backoff_s)
                self._stop.wait(backoff_s)
                continue
            if not more:
                if self._stop.is_set():
                    return
                self._news.wait()
                self._news.clear()
