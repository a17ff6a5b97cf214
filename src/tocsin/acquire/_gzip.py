"""Compressed files: every byte that can be unpacked is read, and where one is damaged is known to the byte."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from tocsin.acquire._lines import BLOCK_BYTES, HEAD_BYTES, Plain

BOMB_BYTES, BOMB_RATIO = 64 * 2**20, 100
"""A compressed file is given up where it has swollen to this size, and by this factor."""
_RAW_BYTES = 64 * 1024
_MAGIC = b"\x1f\x8b"


class Damage(NamedTuple):
    """Why a compressed file cannot be read to its end."""

    reason: str
    """One of those that decoders give: ``compression`` or ``too_large``."""
    detail: str
    is_inside: bool
    """Whether it lies inside the data, so that the last line may be cut; else it is behind their end."""


class Gzip(Plain):
    """A gzip file of one or more members (RFC 1952): read in order; a position is one in the unpacked bytes.

    Not the standard library's reader: where an error follows, it drops up to megabytes of what it had unpacked.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._start()

    def _start(self) -> None:
        self.damage: Damage | None = None
        self._unpacker: Any = None
        self._raw = b""  # read, not yet unpacked
        self._raw_at = 0  # behind it
        self._at = 0
        self._kept = b""  # unpacked but not yet taken, from _at on
        self._head = b""  # looked at again and again, and not worth beginning anew

    @property
    def cut_off(self) -> Damage | None:
        """The damage, or that what there is ends before its data do: the rest may still come to a file that grows."""
        if self.damage is not None or self._unpacker is None:
            return self.damage
        return Damage("compression", f"cut off: its {self._raw_at:,} bytes end before their data do", True)

    def read_into(self, view: memoryview, position: int) -> int:
        if position + len(view) <= len(self._head):
            view[:] = self._head[position : position + len(view)]
            return len(view)
        if position < self._at:
            self._start()
        while self._at < position:
            kept = self._kept or self._more(min(position - self._at, BLOCK_BYTES))
            if not kept:
                break
            used = min(position - self._at, len(kept))
            self._at, self._kept = self._at + used, kept[used:]
        while len(self._kept) < len(view) and (more := self._more(len(view) - len(self._kept))):
            self._kept += more
        count = min(len(self._kept), len(view)) if self._at == position else 0
        view[:count] = self._kept[:count]
        return count

    def bytes_read(self, position: int) -> int:
        return self._raw_at

    def _more(self, count: int) -> bytes:
        """Returns about so many further bytes, unpacked; none where there are no more for now."""
        more = self._unpack(count)
        self._head += more[: HEAD_BYTES - len(self._head)]
        return more

    def _unpack(self, count: int) -> bytes:
        swollen = self._at + len(self._kept)
        if self.damage is None and swollen > BOMB_BYTES and swollen > BOMB_RATIO * self.size():
            self.damage = Damage(
                "too_large", f"swells more than {BOMB_RATIO}-fold; {swollen:,} bytes of it were read", True
            )
        while self.damage is None and (self._unpacker is not None or self._next_member()):
            before = self._unpacker.copy()
            try:
                unpacked = bytes(self._unpacker.decompress(self._raw, count))
            except zlib.error as error:
                return self._up_to_the_error(before, error)
            self._raw = self._unpacker.unconsumed_tail
            if self._unpacker.eof:
                self._raw, self._unpacker = self._unpacker.unused_data, None
            if unpacked:
                return unpacked
            if self._unpacker is not None and not self._raw and not self._read_on():
                break
        return b""

    def _next_member(self) -> bool:
        """Begin the next member, past the zeros that may stand between two; False where none follows."""
        while True:
            if self._raw_at > len(self._raw):
                self._raw = self._raw.lstrip(b"\0")
            if len(self._raw) >= len(_MAGIC) or not self._read_on():
                break
        if self._raw.startswith(_MAGIC):
            self._unpacker = zlib.decompressobj(wbits=31)
            return True
        if self._raw:
            begin = self._raw_at - len(self._raw)
            told = f"{self.size() - begin:,} bytes follow the end of its data, from byte {begin:,} on"
            self.damage = Damage("compression", told if begin else "no gzip file, for all that its name says", False)
        return False

    def _read_on(self) -> bool:
        raw = os.pread(self.descriptor, _RAW_BYTES, self._raw_at)
        self._raw += raw
        self._raw_at += len(raw)
        return bool(raw)

    def _up_to_the_error(self, unpacker: Any, error: zlib.error) -> bytes:
        """Returns what comes before it: an error takes all that its call had unpacked with it, so go byte by byte."""
        begin, unpacked = self._raw_at - len(self._raw), bytearray()
        for i in range(len(self._raw)):
            try:
                unpacked += unpacker.decompress(self._raw[i : i + 1])
            except zlib.error:
                self.damage = Damage("compression", f"damaged at its byte {begin + i:,} ({error})", True)
                break
        return bytes(unpacked)
