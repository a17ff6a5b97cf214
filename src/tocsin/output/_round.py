"""Messages on their way to one target: a few at once, but those of one alarm one after the other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tocsin.contracts import Message
from tocsin.errors import DeliveryError

AT_ONCE = 4
"""So many messages are on their way to a target at a time."""
FAILURES_MAX = 10
"""After so many failures a target is left alone until the next round."""


class Away(DeliveryError):
    """A target cannot be reached at all: what else there is for it need not be tried now."""


class Round:
    """One try to send what waits for a target."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        """Ids of what need not be sent again."""
        self.failures: list[DeliveryError] = []
        self._is_over = False
        self._lock = threading.Lock()

    def run(self, pool: ThreadPoolExecutor, messages: Sequence[Message], send: Callable[[Message], None]) -> None:
        """Send messages; after one that fails, the later ones of the same alarm wait, so that they keep their order."""
        ordered: dict[str, list[Message]] = {}
        for message in messages:
            ordered.setdefault(order_of(message), []).append(message)
        running = [pool.submit(self._send_each, some, send) for some in ordered.values()]
        for one in running:
            one.result()

    def _send_each(self, messages: Sequence[Message], send: Callable[[Message], None]) -> None:
        for message in messages:
            if self._is_over:
                return
            try:
                send(message)
            except DeliveryError as error:
                with self._lock:
                    self.failures.append(error)
                    self._is_over |= isinstance(error, Away) or len(self.failures) >= FAILURES_MAX
                return
            with self._lock:
                self.taken.append(message.id)


def order_of(message: Message) -> str:
    """Returns what a message must not overtake another of: its alarm, or its machine where there is none.

    Examples
    --------
    >>> order_of(Message("1", b'{"row": {"key": "pump", "rule": "hot", "event": "raised"}}'))
    '["hot", "pump"]'
    """
    row = json.loads(message.body).get("row", {})
    return json.dumps([row.get("rule"), row.get("key")])
