"""MQTT's many packets, in batches: a compiled loop over the bytes of the socket finds them (`Inbox.frames`), the
PUBLISH packets among them become Arrow arrays in one go (`publishes`), and are acknowledged in one go (`acks`).

No sockets here. The packets that are few, one by one: `tocsin.mqtt.packets`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import Ints
from tocsin.kernels import hash_bytes, kernel
from tocsin.mqtt.packets import MALFORMED, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, TOO_LARGE, V5, ProtocolError

Bytes = npt.NDArray[np.uint8]
HEAD, TOPIC, TOPIC_END, PACKET_ID, PROPERTIES, BODY, END = range(7)
"""Rows of the array of frames; for what is not PUBLISH, ``BODY`` is where the part after the fixed header begins."""


@kernel
def octet(data: Bytes, at: int) -> int:
    """One byte as a signed number (mixing signed and unsigned makes floats of both)."""
    return np.int64(data[at])  # type: ignore[return-value]  # numba knows no other


_INCOMPLETE, _TOO_LONG = -1, -2
_DUP = 8
_NUL, _HASH, _PLUS = 0, 35, 43


@kernel
def variable_int(data: Bytes, begin: int, end: int) -> tuple[int, int]:
    """Returns the number that at most four bytes from ``begin`` on hold, seven bits each, and where they end.

    Instead of the end ``_INCOMPLETE`` if there are too few bytes, ``_TOO_LONG`` if the fourth is not the last.
    """
    value = 0
    for k in range(4):
        if begin + k >= end:
            return value, _INCOMPLETE
        digit = octet(data, begin + k)
        value |= (digit & 127) << (7 * k)
        if digit < 128:
            return value, begin + k + 1
    return value, _TOO_LONG


@kernel
def scan_publish(
    data: Bytes, head: int, begin: int, stop: int, v5: bool, frames: npt.NDArray[np.int64], number: int
) -> int:
    """Note where the parts of a PUBLISH lie. Returns where its payload begins; -1 if the packet is malformed."""
    qos = (head >> 1) & 3
    if qos == 3 or (qos == 0 and head & _DUP) or stop - begin < 2:
        return -1
    topic = begin + 2
    i = topic + (octet(data, begin) << 8 | octet(data, begin + 1))
    if i == topic or i + (2 if qos else 0) > stop:  # an empty topic needs an alias, and we allow none
        return -1
    for j in range(topic, i):
        if data[j] == _NUL or data[j] == _HASH or data[j] == _PLUS:
            return -1
    frames[TOPIC, number] = topic
    frames[TOPIC_END, number] = i
    if qos:
        packet_id = octet(data, i) << 8 | octet(data, i + 1)
        if packet_id == 0:
            return -1
        frames[PACKET_ID, number] = packet_id
        i += 2
    frames[PROPERTIES, number] = i
    if v5:
        size, i = variable_int(data, i, stop)
        if i < 0 or i + size > stop:
            return -1
        i += size
    return i


@kernel
def scan(
    data: Bytes,
    begin: int,
    end: int,
    v5: bool,
    size_max: int,
    cut: bool,
    limit: int,
    frames: npt.NDArray[np.int64],
) -> tuple[int, int, int]:
    """Find the complete packets in ``data[begin:end]``.

    Returns how many there are, where they end, and an error (a reason code) found there, 0 if none. With ``cut``, a
    PUBLISH over ``size_max`` bytes loses its end: the number of bytes to skip is returned as a negative error.
    """
    count = 0
    at = begin
    while count < limit and end - at >= 2:
        head = octet(data, at)
        length, i = variable_int(data, at + 1, end)
        if i == _TOO_LONG:
            return count, at, MALFORMED
        if i == _INCOMPLETE:
            break
        stop = i + length
        kind = head >> 4
        over = stop - at - size_max
        if over > 0:
            if not cut or kind != PUBLISH:
                return count, at, TOO_LARGE
            stop = at + size_max
        if end < stop:
            break
        frames[HEAD, count] = head
        frames[TOPIC, count] = i
        frames[TOPIC_END, count] = i
        frames[PACKET_ID, count] = 0
        frames[PROPERTIES, count] = i
        if kind == PUBLISH:
            i = scan_publish(data, head, i, stop, v5, frames, count)
            if i < 0:
                return count, at, MALFORMED
        elif PUBACK <= kind <= PUBCOMP:
            if length < 2 or head & 15 != (2 if kind == PUBREL else 0):
                return count, at, MALFORMED
            frames[PACKET_ID, count] = octet(data, i) << 8 | octet(data, i + 1)
        frames[BODY, count] = i
        frames[END, count] = stop
        count += 1
        at = stop
        if over > 0:
            return count, at, -over
    return count, at, 0


@kernel
def gather(data: Bytes, begins: Ints, ends: Ints, offsets: npt.NDArray[np.int32], out: Bytes) -> None:
    """Copy ``data[begins[i]:ends[i]]`` one after the other."""
    at = 0
    for i in range(len(begins)):
        for j in range(begins[i], ends[i]):
            out[at] = data[j]
            at += 1
        offsets[i + 1] = at


@kernel
def hash_frames(data: Bytes, frames: npt.NDArray[np.int64], out: npt.NDArray[np.uint64]) -> None:
    """A hash of topic and payload of each frame."""
    for i in range(frames.shape[1]):
        topic = hash_bytes(data, frames[TOPIC, i], frames[TOPIC_END, i])
        out[i] = topic * np.uint64(0x9E3779B97F4A7C15) ^ hash_bytes(data, frames[BODY, i], frames[END, i])


class Publishes(NamedTuple):
    """Messages as arrays; row i of each is message i."""

    topics: pa.Array
    """dictionary<int32, string>"""
    payloads: pa.Array
    """binary"""
    packet_ids: Ints
    qos: Ints
    dup: npt.NDArray[np.bool_]
    retain: npt.NDArray[np.bool_]
    hashes: npt.NDArray[np.uint64]
    """Of topic and payload; 0 where all are QoS 0."""

    def __len__(self) -> int:
        return len(self.packet_ids)

    def keep(self, mask: npt.NDArray[np.bool_]) -> Publishes:
        """The messages for which ``mask`` is true."""
        topics, payloads = (column.filter(pa.array(mask)) for column in self[:2])
        ids, qos, dup, retain, hashes = self[2:]
        return Publishes(topics, payloads, ids[mask], qos[mask], dup[mask], retain[mask], hashes[mask])

    def after(self, topic: str, payload: bytes) -> Publishes:
        """These messages after one that no broker has sent: QoS 0, of this topic."""
        first = pa.array([topic]).dictionary_encode()
        topics = pa.chunked_array([first, self.topics]).unify_dictionaries().combine_chunks()
        return Publishes(
            topics if isinstance(topics, pa.Array) else pa.concat_arrays(topics.chunks),
            pa.concat_arrays([pa.array([payload], pa.binary()), self.payloads]),
            *(np.concatenate([np.zeros(1, column.dtype), column]) for column in self[2:]),
        )


def publishes(data: Bytes, frames: npt.NDArray[np.int64]) -> Publishes:
    """The PUBLISH packets among these frames, as Arrow arrays; `ProtocolError` if a topic is not UTF-8."""
    if (frames[HEAD] >> 4 != PUBLISH).any():
        frames = np.ascontiguousarray(frames[:, frames[HEAD] >> 4 == PUBLISH])
    heads = frames[HEAD]
    hashes = np.zeros(len(heads), np.uint64)
    if (heads & 6).any():
        hash_frames(data, frames, hashes)
    topics = _column(pa.string(), data, frames[TOPIC], frames[TOPIC_END]).dictionary_encode()
    try:
        topics.dictionary.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ProtocolError("a topic is not UTF-8") from error
    return Publishes(
        topics=topics,
        payloads=_column(pa.binary(), data, frames[BODY], frames[END]),
        packet_ids=frames[PACKET_ID].copy(),
        qos=heads >> 1 & 3,
        dup=heads & 8 != 0,
        retain=heads & 1 != 0,
        hashes=hashes,
    )


def _column(kind: pa.DataType, data: Bytes, begins: Ints, ends: Ints) -> pa.Array:
    offsets = np.zeros(len(begins) + 1, np.int32)
    out = np.empty(int((ends - begins).sum()), np.uint8)
    gather(data, begins, ends, offsets, out)
    return pa.Array.from_buffers(kind, len(begins), [None, pa.py_buffer(offsets), pa.py_buffer(out)])


def acks(packet_ids: Ints, qos: Ints) -> bytes:
    """PUBACK (for QoS 1) and PUBREC (for QoS 2) packets, one after the other."""
    out = np.empty((len(packet_ids), 4), np.uint8)
    out[:, 0] = np.where(qos == 2, PUBREC << 4, PUBACK << 4)
    out[:, 1] = 2
    out[:, 2] = packet_ids >> 8
    out[:, 3] = packet_ids & 255
    return out.tobytes()


class ReceiveBuffer:
    """The bytes that have come and are not yet used: bounded, contiguous, never scanned twice for their content."""

    ROOM_BYTES = 65536

    def __init__(self, version: int, size_max: int, *, cut: bool = False) -> None:
        self.version = version
        self.size_max = size_max
        self.cut = cut
        self.data: Bytes = np.empty(4 * self.ROOM_BYTES, np.uint8)
        self._begin = self._end = self._skip = 0
        self._frames = np.empty((7, 1024), np.int64)

    def room(self) -> memoryview:
        """Where the next bytes go; what `frames` returned is gone after this."""
        waiting = self._end - self._begin
        if self._begin and (waiting == 0 or len(self.data) - self._end < self.ROOM_BYTES):
            self.data[:waiting] = self.data[self._begin : self._end].copy()
            self._begin, self._end = 0, waiting
        if len(self.data) - self._end < self.ROOM_BYTES:
            # By doubling, as the bytes really come: a length in a header alone makes nobody reserve memory.
            self.data = np.concatenate([self.data, np.empty_like(self.data)])
        return memoryview(self.data)[self._end :]  # type: ignore[arg-type]  # an array is a buffer

    def filled(self, count: int) -> None:
        """So many bytes have been put there."""
        skipped = min(count, self._skip)
        if skipped:
            self._skip -= skipped
            self.data[self._end : self._end + count - skipped] = self.data[
                self._end + skipped : self._end + count
            ].copy()
        self._end += count - skipped

    def first(self) -> int:
        """The first byte that waits; there must be one."""
        return int(self.data[self._begin])

    def feed(self, data: bytes) -> None:
        """`room` and `filled` for bytes at hand."""
        view = memoryview(data)
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.filled(count)
            view = view[count:]

    def frames(self, limit: int = 1024) -> npt.NDArray[np.int64]:
        """The next complete packets, shape (7, n), n perhaps 0; their bytes are in ``data`` until `room` is called.

        `ProtocolError` once everything before the error has been returned.
        """
        if limit > self._frames.shape[1]:
            self._frames = np.empty((7, limit), np.int64)
        count, at, error = scan(
            self.data, self._begin, self._end, self.version == V5, self.size_max, self.cut, limit, self._frames
        )  # fmt: skip
        if error > 0 and count == 0:
            text = f"is over the limit of {self.size_max} bytes" if error == TOO_LARGE else "is malformed"
            raise ProtocolError(f"a packet of type {self.data[at] >> 4} {text}", error)
        self._begin = at
        if error < 0:
            passed = min(-error, self._end - at)
            self._begin += passed
            self._skip = -error - passed
        return np.ascontiguousarray(self._frames[:, :count])
