"""Opening files with suspicion, and reading them in blocks of whole lines."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import Ints
from tocsin.errors import SourceError
from tocsin.kernels import kernel
from tocsin.values.bytes import trailing_zeros, word_at
from tocsin.values.text import UTF16_BYTES, utf16_of

BLOCK_BYTES = 8 * 2**20
"""How much is read at once, and the longest line; what is longer is cut here, and its rest left out."""
WHOLE_BYTES = 64 * 2**20
"""How much of a document is read at most."""
BLANK = np.isin(np.arange(256), list(b" \t\n\r\v\f"))
"""By byte: whether a line of nothing but such bytes is blank."""
BLANK_CSV = BLANK & (np.arange(256) != ord("\t"))
"""The same where a tab may stand between two empty fields."""
HEAD_BYTES = 1024
"""How much of a file's beginning tells it from others."""


class FileRefused(SourceError):
    """A file that is not read: a link, a pipe, a device, or gone."""


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, never through a link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        remedy = {
            errno.ELOOP: "links are not followed; name the file itself",
            errno.EACCES: "let who runs this read it",
        }
        told = remedy.get(error.errno or 0, "it was moved or deleted")
        raise FileRefused(f"{path} cannot be read: {error.strerror}; {told}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileRefused(f"{path} is no regular file")
    return descriptor


class Plain:
    """A file as it stands; but one in UTF-16 is read as UTF-8 (see `Utf16`)."""

    def __init__(self, path: Path) -> None:
        self.descriptor = open_regular(path)
        self._utf16: Utf16 | None = None
        self._is_known = False

    def _as_utf8(self) -> Utf16 | None:
        if not self._is_known:
            head = os.pread(self.descriptor, UTF16_BYTES, 0)
            codec = utf16_of(head)
            self._is_known = codec is not None or len(head) == UTF16_BYTES
            if codec is not None:
                self._utf16 = Utf16(self.descriptor, codec)
        return self._utf16

    def read_into(self, view: memoryview, position: int) -> int:
        """Fill a buffer from a position on; returns how much there was."""
        if (text := self._as_utf8()) is not None:
            return text.read_into(view, position)
        count = 0
        while count < len(view) and (got := os.preadv(self.descriptor, [view[count:]], position + count)):
            count += got
        return count

    def bytes_read(self, position: int) -> int:
        """How far it is read, in bytes on the disk."""
        return position

    def size(self) -> int:
        """Returns how many bytes there are to be read, or, of a file in UTF-16, the most that there may be."""
        size = os.fstat(self.descriptor).st_size
        return size if self._as_utf8() is None else size * 3 // 2

    def close(self) -> None:
        os.close(self.descriptor)


class Utf16:
    """A file in UTF-16, as UTF-8: read in order; a position is one in the bytes of UTF-8."""

    def __init__(self, descriptor: int, codec: str) -> None:
        self._descriptor, self._codec = descriptor, codec
        self._start()

    def _start(self) -> None:
        self._decoder = codecs.getincrementaldecoder(self._codec)("surrogatepass")
        self._raw_at = self._at = 0
        self._kept = b""  # what was read but not yet taken, from _at on

    def read_into(self, view: memoryview, position: int) -> int:
        if position < self._at:
            self._start()
        while self._at + len(self._kept) < position + len(view):
            raw = os.pread(self._descriptor, BLOCK_BYTES, self._raw_at)
            if not raw:
                break
            self._raw_at += len(raw)
            self._kept += self._decoder.decode(raw).encode("utf-8", "surrogatepass")
            passed = min(max(position - self._at, 0), len(self._kept))
            self._at, self._kept = self._at + passed, self._kept[passed:]
        passed = min(position - self._at, len(self._kept))
        self._at, self._kept = self._at + passed, self._kept[passed:]
        count = min(len(self._kept), len(view)) if self._at == position else 0
        view[:count] = self._kept[:count]
        return count


def head_of(stream: Plain, length: int) -> str:
    """Hash of a file's first bytes; empty if there are fewer."""
    head = bytearray(length)
    if stream.read_into(memoryview(head), 0) < length:
        return ""
    return digest(bytes(head))


def is_document(stream: Plain) -> bool:
    """Returns whether a JSON file is one document over several lines, rather than one in each line.

    The first line of a document begins an object or array that it does not end; nor does the second line stand alone.
    """
    head = bytearray(2**16)
    count = stream.read_into(memoryview(head), 0)
    lines = [line for line in bytes(head[:count]).decode("utf-8-sig", "replace").splitlines() if line.strip()]
    if not lines or not lines[0].lstrip().startswith(("{", "[")) or _is_json(lines[0]):
        return False
    return lines[0].strip() in ("{", "[") or (len(lines) > 1 and not _is_json(lines[1]))


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:16]


class LineBlock:
    """Whole lines from a position on."""

    def __init__(self, stream: Plain, position: int) -> None:
        self.position = position
        self.buffer = np.empty(BLOCK_BYTES + 8, np.uint8)
        self.size = stream.read_into(self.buffer.data[:BLOCK_BYTES], position)
        self.at_end = self.size < BLOCK_BYTES
        self.buffer[self.size : self.size + 8] = 0
        ends = np.empty(self.size + 1, np.int32)
        ends[0] = 0
        count = line_ends(self.buffer.ctypes.data, self.size, ends)
        self.ends = ends[: count + 1].copy()

    @property
    def lines(self) -> int:
        return len(self.ends) - 1

    def finish(self) -> None:
        """Take what follows the last line end as a line."""
        if self.ends[-1] < self.size:
            self.ends = np.append(self.ends, np.int32(self.size))

    def blanks(self, first: int, last: int, is_blank: npt.NDArray[np.bool_] = BLANK) -> npt.NDArray[np.bool_]:
        """Returns which lines hold nothing but blanks and their end, however many, shape (last - first,)."""
        blank = np.empty(last - first, np.bool_)
        blank_lines(self.buffer, self.ends, is_blank, first, blank)
        return blank

    def text_from(self, first: int, is_blank: npt.NDArray[np.bool_] = BLANK) -> int:
        """Returns the first line from here on that is not blank; behind the last one where all are."""
        return int(first_text(self.buffer, self.ends, is_blank, first))

    def payloads(self, first: int, last: int) -> tuple[pa.Array, Ints, Ints]:
        """Lines as binary values over the block itself, and the positions at which they begin and end."""
        ends = self.ends[first : last + 1]
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(self.buffer)]
        positions = self.position + ends.astype(np.int64)
        return pa.Array.from_buffers(pa.binary(), last - first, buffers), positions[:-1], positions[1:]


@kernel
def line_ends(data: int, size: int, ends: npt.NDArray[np.int32]) -> int:
    """Write where each line ends (behind its line feed) to ``ends[1:]``; how many there are."""
    ones, highs = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
    sevens = np.uint64(0x7F7F7F7F7F7F7F7F)
    feeds = np.uint64(10) * ones
    count = 0
    for at in range(0, size, 8):
        x = word_at(data + at) ^ feeds
        marks = ~(((x & sevens) + sevens) | x | sevens) & highs  # exactly the zero bytes
        while marks:
            end = at + (trailing_zeros(marks) >> 3) + 1
            if end <= size:
                count += 1
                ends[count] = end
            marks &= marks - np.uint64(1)
    return count


@kernel
def blank_lines(
    data: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int32],
    is_blank: npt.NDArray[np.bool_],
    first: int,
    blank: npt.NDArray[np.bool_],
) -> None:
    """Write for each line from ``first`` on whether it is of such bytes alone."""
    for i in range(len(blank)):
        at, end = ends[first + i], ends[first + i + 1]
        while at < end and is_blank[data[at]]:
            at += 1
        blank[i] = at == end


@kernel
def first_text(
    data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int32], is_blank: npt.NDArray[np.bool_], first: int
) -> int:
    """Returns the first line from ``first`` on that is of more than such bytes; else how many there are."""
    lines = len(ends) - 1
    for i in range(first, lines):
        at, end = ends[i], ends[i + 1]
        while at < end and is_blank[data[at]]:
            at += 1
        if at < end:
            return i
    return lines
