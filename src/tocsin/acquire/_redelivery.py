"""What an MQTT broker may send again, so that it can be told from what is new."""

from __future__ import annotations

import base64
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from tocsin.batch import Ints

_SEEN = np.dtype([("packet_id", "<u2"), ("hash", "<u4")])
_LOW = np.uint64(0xFFFFFFFF)
"""Half of a hash is enough: packet id and DUP flag must agree too."""
_UNKNOWN, _DURABLE = -2, -1


class RedeliveryWindow:
    """The messages that the broker may send again: those not acknowledged, or not certainly.

    A packet id names one message until its acknowledgement has reached the broker. So for each id the last message is
    enough: its position here, and the hash of topic and payload. The broker's own limit of messages in flight is not
    trusted: Mosquitto 2.0.11 exceeds it many times over after a lost connection.
    """

    def __init__(self, settled_after: int) -> None:
        self._settled_after = settled_after
        self._position: Ints = np.full(65536, _UNKNOWN, np.int64)
        self._hash: npt.NDArray[np.uint32] = np.zeros(65536, np.uint32)
        self._open = _Queue()
        """Came on this connection, not acknowledged."""
        self._sent: deque[tuple[int, Ints, Ints]] = deque()
        """Acknowledged on this connection, not confirmed: number of the last acknowledgement, ids, positions."""
        self._new = 0
        self._unsure = _Queue()
        """Came on an earlier connection; the broker may or may not have seen our acknowledgement."""

    @property
    def waiting(self) -> int:
        """How many wait for their acknowledgement."""
        return len(self._open.packet_ids)

    @property
    def size(self) -> int:
        """How many it holds, about."""
        held = len(self._unsure.packet_ids) + sum(len(entry[1]) for entry in self._sent)
        return self.waiting + held

    def add(self, packet_ids: Ints, qos: Ints, hashes: npt.NDArray[np.uint64], positions: Ints) -> None:
        """New messages. A message that had the same id is forgotten: the broker has seen its acknowledgement."""
        self._position[packet_ids] = positions
        self._hash[packet_ids] = hashes & _LOW
        self._open.append(packet_ids, qos, positions)
        self._new += len(packet_ids)
        if self._new > self._settled_after:
            # A broker sends again at once, before what is new: after so many new ones no old one will come.
            self._unsure = _Queue()

    def known(self, packet_ids: Ints, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of these messages have been here before."""
        return np.asarray((self._position[packet_ids] != _UNKNOWN) & (self._hash[packet_ids] == hashes & _LOW))

    def again(self, packet_ids: Ints, qos: Ints) -> None:
        """Known messages have come again: they want their acknowledgement, unless it is on its way."""
        positions = self._position[packet_ids]
        fresh = ~np.isin(positions, np.concatenate([self._open.positions, *(entry[2] for entry in self._sent)]))
        fresh |= positions == _DURABLE
        self._open.append(packet_ids[fresh], qos[fresh], positions[fresh])
        self._open.sort()
        self._unsure.keep(~np.isin(self._unsure.packet_ids, packet_ids))

    def durable(self, until: int) -> tuple[Ints, Ints]:
        """Take out what came on this connection with a position before ``until``: ids and QoS."""
        packet_ids, qos, _ = self._open.take(int(np.searchsorted(self._open.positions, until)))
        return packet_ids, qos

    def sent(self, packet_ids: Ints, number: int) -> None:
        """These acknowledgements were sent; the last one was this connection's ``number``-th."""
        self._sent.append((number, packet_ids, self._position[packet_ids]))

    def unsent(self, packet_ids: Ints) -> None:
        """These acknowledgements could not be sent: the messages will come again."""
        self._unsure.append(packet_ids, np.ones_like(packet_ids), self._position[packet_ids])

    def confirm(self, number: int) -> None:
        """The broker has processed so many acknowledgements of this connection."""
        while self._sent and self._sent[0][0] <= number:
            _, packet_ids, positions = self._sent.popleft()
            same = self._position[packet_ids] == positions
            self._position[packet_ids[same]] = _UNKNOWN

    def disconnect(self) -> None:
        """The connection is gone: ids must not be acknowledged before they come again."""
        packet_ids, positions = self._held()
        self._unsure = _Queue()
        self._unsure.append(packet_ids, np.ones_like(packet_ids), positions)
        self._sent.clear()
        self._open = _Queue()
        self._new = 0

    def forget(self) -> None:
        """The broker has forgotten the session: ids mean nothing any more."""
        self._position.fill(_UNKNOWN)
        self._open, self._unsure = _Queue(), _Queue()
        self._sent.clear()

    def _held(self) -> tuple[Ints, Ints]:
        """Ids and positions of all that may come again: no more than there are ids."""
        ids = np.concatenate([self._unsure.packet_ids, *(entry[1] for entry in self._sent), self._open.packet_ids])
        positions = np.concatenate([self._unsure.positions, *(entry[2] for entry in self._sent), self._open.positions])
        valid = (self._position[ids] == positions) & (positions != _UNKNOWN)
        return ids[valid], positions[valid]

    def dump(self) -> str:
        """Returns ids and hashes as text, for the offset of a batch: once that batch is durable, all of them are."""
        ids, _ = self._held()
        table = np.empty(len(ids), _SEEN)
        table["packet_id"], table["hash"] = ids, self._hash[ids]
        return base64.b64encode(table.tobytes()).decode()

    def restore(self, text: str) -> None:
        """The reverse of `dump`, after a restart."""
        table = np.frombuffer(base64.b64decode(text), _SEEN)
        ids = table["packet_id"].astype(np.int64)
        self._position[ids] = _DURABLE
        self._hash[ids] = table["hash"]
        self._unsure.append(ids, np.ones_like(ids), np.full(len(ids), _DURABLE))


class _Queue:
    """Three columns, in order of position."""

    def __init__(self) -> None:
        self.packet_ids: Ints = np.empty(0, np.int64)
        self.qos: Ints = np.empty(0, np.int64)
        self.positions: Ints = np.empty(0, np.int64)

    def append(self, packet_ids: Ints, qos: Ints, positions: Ints) -> None:
        self.packet_ids = np.concatenate([self.packet_ids, packet_ids])
        self.qos = np.concatenate([self.qos, qos])
        self.positions = np.concatenate([self.positions, positions])

    def sort(self) -> None:
        self.keep(np.argsort(self.positions, kind="stable"))

    def keep(self, order: npt.NDArray[Any]) -> None:
        """Only these rows (a mask), or all in this order (their numbers)."""
        self.packet_ids, self.qos, self.positions = (a[order] for a in (self.packet_ids, self.qos, self.positions))

    def take(self, count: int) -> tuple[Ints, Ints, Ints]:
        """Remove and return the first ``count`` rows."""
        taken = self.packet_ids[:count], self.qos[:count], self.positions[:count]
        self.packet_ids, self.qos, self.positions = (
            self.packet_ids[count:], self.qos[count:], self.positions[count:],
        )  # fmt: skip
        return taken
