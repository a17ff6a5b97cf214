"""Which rows of an epoch a stream has acknowledged, noted request by request beside the file that holds them.

    "TSNT" | rows u32 | crc32 u32 | the rows' numbers, u32 each

The crc begins with how many rows the epoch has, so that no note is taken for that of other rows. A frame that is torn,
as a power cut may leave it, ends what is read: its rows are sent again.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tocsin.world import Disk

_HEAD = struct.Struct("<4sII")
_MAGIC = b"TSNT"


class Acknowledged:
    """The note of one epoch. It is written through to the system, which a killed process leaves behind; not synced."""

    def __init__(self, disk: Disk, path: Path, count: int) -> None:
        """``count`` is how many rows the epoch has."""
        self._disk, self._path, self._count = disk, path, count
        self.rows = np.zeros(count, bool)
        """Whether each row was acknowledged."""
        try:
            data = disk.read(path)
        except FileNotFoundError:
            return
        end = 0
        while (numbers := _frame(data, end, count)) is not None and numbers.size and numbers.max() < count:
            self.rows[numbers] = True
            end += _HEAD.size + numbers.nbytes
        if end < len(data):
            disk.truncate(path, end)

    def add(self, numbers: Sequence[int]) -> None:
        """Note more of them, at least one."""
        self.rows[numbers] = True
        body = np.array(numbers, "<u4").tobytes()
        self._disk.append(self._path, _HEAD.pack(_MAGIC, len(numbers), zlib.crc32(body, self._count)) + body)


def _frame(data: bytes, at: int, rows: int) -> np.ndarray | None:
    """Return the numbers of the frame that begins there, None if there is no whole one."""
    if len(data) < at + _HEAD.size:
        return None
    magic, count, crc = _HEAD.unpack_from(data, at)
    body = data[at + _HEAD.size : at + _HEAD.size + 4 * count]
    if magic != _MAGIC or len(body) < 4 * count or zlib.crc32(body, rows) != crc:
        return None
    return np.frombuffer(body, "<u4")
