"""Spans of the payloads' bytes as Arrow columns: text, and names as codes."""

from __future__ import annotations

import os
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tocsin.batch import Ints
from tocsin.kernels import kernel
from tocsin.values.bytes import LOW_BYTES, byte_at, word_at

Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_] | None
FEW = 4
"""Up to this many rows a Python loop is cheaper than calling compiled ones."""
_SEED = int.from_bytes(os.urandom(7), "little")
"""Against names made to collide; codes do not depend on it."""
TABLE_MIN = 64
"""The least size of the hash table of names."""
LENGTH = 0xFFFFFFFF
"""A span is one integer: where it starts in the upper half, its length in the lower."""


def bitmap(null: npt.NDArray[np.bool_]) -> pa.Buffer:
    """Returns Arrow's bits of which rows are valid, from which are null."""
    return pa.py_buffer(np.packbits(~null, bitorder="little"))


def texts(data: pa.Buffer, starts: Ints, lengths: Ints, null: Mask) -> pa.Array:
    """Spans of the payloads as a string array."""
    count = len(starts)
    ends = np.zeros(count + 1, np.int32)
    np.cumsum(lengths, out=ends[1:])
    text = np.empty(int(ends[-1]) + 8, np.uint8)
    gather(data.address, starts, lengths, text)
    valid = None if null is None else bitmap(null)
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(text), valid)


def names(data: pa.Buffer, spans: Ints, null: Mask) -> pa.Array:
    """Spans of the payloads as a dictionary array, words in order of first appearance."""
    count = len(spans)
    if count <= FEW:
        return _coded_few(data, spans, null)
    codes = np.empty(count, np.int32)
    table = np.empty(max(1 << (4 * count - 1).bit_length(), TABLE_MIN), np.int32)
    firsts, hashes = np.empty(count, np.int64), np.empty(count, np.uint64)
    words = codes_of(data.address, spans, codes, table, firsts, hashes, _SEED)
    firsts = firsts[:words]
    dictionary = texts(data, firsts >> 32, firsts & LENGTH, None)
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=null), dictionary, safe=False)


def _coded_few(data: pa.Buffer, spans: Ints, null: Mask) -> pa.Array:
    seen: dict[bytes, int] = {}
    text = memoryview(data)
    codes = [seen.setdefault(bytes(text[s >> 32 : (s >> 32) + (s & LENGTH)]), len(seen)) for s in spans.tolist()]
    ends = np.array([0, *accumulate(map(len, seen))], np.int32)
    words = pa.StringArray.from_buffers(len(seen), pa.py_buffer(ends), pa.py_buffer(b"".join(seen)))
    valid = None if null is None else bitmap(null)
    indices = pa.Array.from_buffers(pa.int32(), len(spans), [valid, pa.py_buffer(np.array(codes, np.int32))])
    return pa.DictionaryArray.from_arrays(indices, words, safe=False)


@kernel
def gather(data: int, starts: Ints, lengths: Ints, text: npt.NDArray[np.uint8]) -> None:
    """Write the spans side by side to ``text``."""
    at = 0
    for i in range(len(starts)):
        start = data + starts[i]
        for j in range(lengths[i]):
            text[at + j] = byte_at(start + j)
        at += lengths[i]


@kernel
def codes_of(
    data: int, spans: Ints, codes: npt.NDArray[np.int32], table: npt.NDArray[np.int32], firsts: Ints, hashes: Words,
    seed: int,
) -> int:  # fmt: skip
    """Code each text by first appearance; a hit is verified byte by byte. Returns how many words there are.

    A span is start << 32 | length. The table (a power of two, at least four times the rows) is used as far as needed,
    and is an eighth full where it can be: a second look costs more than the memory, for no processor can tell when.
    """
    size, count = TABLE_MIN, 0
    table[:size] = -1
    for row in range(len(spans)):
        span = spans[row]
        at, length = data + (span >> 32), span & LENGTH
        h = np.uint64(length ^ seed)
        for i in range(0, length, 8):
            word = word_at(at + i)
            if length - i < 8:
                word &= LOW_BYTES[length - i]
            h = (h ^ word) * np.uint64(0xD6E8FEB86659FD93)
            h ^= h >> np.uint64(32)
        slot = np.int64(h & np.uint64(size - 1))
        code = np.int64(table[slot])
        while code >= 0:
            if hashes[code] == h and firsts[code] & LENGTH == length:
                i, other = 0, data + (firsts[code] >> 32)
                while i + 8 <= length and word_at(at + i) == word_at(other + i):
                    i += 8
                if i + 8 > length and (word_at(at + i) ^ word_at(other + i)) & LOW_BYTES[length - i] == 0:
                    break
            slot = np.int64((slot + 1) & (size - 1))
            code = np.int64(table[slot])
        if code < 0:
            code = np.int64(count)
            table[slot] = code
            firsts[code], hashes[code] = span, h
            count += 1
            if 8 * count > size and size < len(table):
                size *= 2
                table[:size] = -1
                for c in range(count):
                    slot = np.int64(hashes[c] & np.uint64(size - 1))
                    while table[slot] >= 0:
                        slot = np.int64((slot + 1) & (size - 1))
                    table[slot] = c
        codes[row] = code
    return count
