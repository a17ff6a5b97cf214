"""Compiled loops: the one decorator, and the hash table that finds the slot of a key.

A kernel is scalar maths over (slot, value) arrays in time order. It reads like its paper, costs tens of nanoseconds a
reading, and costs the same for one key with a million rows as for a million keys with one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite.binding import get_host_cpu_features
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime import rtsys
from numba.extending import intrinsic

P = ParamSpec("P")
R = TypeVar("R")


_KERNELS = (b"\n@kernel\n", b"\n@inner\n", b"\n@inlined\n", b"\n@intrinsic")
_IMPORTS = re.compile(rb"^from tocsin\.([\w.]+) import (\([^)]*\)|.*)$", re.MULTILINE)
_CONSTANT = re.compile(rb"\b[A-Z][A-Z0-9_]+\b")


@cache
def sources() -> str:
    """Returns a hash of all files whose text is in the machine code: those with kernels, and where constants stand.

    It costs some 15 ms, once for each process.
    """
    package = Path(__file__).parent
    files: dict[str, bytes] = {}
    for folder, _, names in os.walk(package):
        for name in names:
            if name.endswith(".py"):
                with open(f"{folder}/{name}", "rb", buffering=0) as file:
                    files[file.name] = file.readall()
    used = {path for path, source in files.items() if any(mark in source for mark in _KERNELS)}
    for path in list(used):
        for module, names_of in _IMPORTS.findall(files[path]):
            if _CONSTANT.search(names_of):
                used.add(f"{package}/{module.decode().replace('.', '/')}.py")
    return hashlib.sha256(b"".join(files.get(path, b"") for path in sorted(used))).hexdigest()


BROUGHT = Path(__file__).parent / "machine_code"
"""What a wheel brings (packaging/machine_code.py), as the files of the package lie; not there in a source tree."""
V3 = "avx avx2 bmi bmi2 cmov cx16 cx8 f16c fma fxsr lzcnt mmx movbe popcnt sahf sse sse2 sse3 sse4.1 sse4.2 ssse3 xsave"
BROUGHT_FOR = {"x86_64": ("x86-64-v3", V3.split()), "aarch64": ("generic", [])}
"""The processor that a wheel's machine code is for, by machine, and what one must have to run it."""


@cache
def brought_for() -> str | None:
    """Returns the name of the processor whose machine code this one runs, None where it does not run what is brought.

    x86-64-v3 (x86-64 psABI) is every desktop, server and gateway of Intel and AMD since 2013 to 2021.
    """
    name, needs = BROUGHT_FOR.get(platform.machine(), (None, []))
    has = get_host_cpu_features() if needs else {}
    return name if BROUGHT.is_dir() and all(has.get(one) for one in needs) else None


class _Kept(FunctionCache):  # type: ignore[misc]
    """Machine code beside the file of its function, or in the user's cache if that cannot be written; else a wheel's.

    numba keeps it for as long as the function's own file stays the same, although the code of all kernels that it
    calls is part of it: so what it goes by is widened to every file that holds a kernel. That is made part of numba's
    version, which is compared before anything else is read: the rest may name types that are no longer there.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._version += f" {sources()}"
        self._brought: IndexDataCacheFile | None = None
        file, package = Path(function.__code__.co_filename), Path(__file__).parent
        if package in file.parents:
            # Its text is in the version: when the file was written says nothing more.
            self._cache_file._source_stamp = None
            if brought_for() is not None:
                folder = BROUGHT / file.parent.relative_to(package)
                self._brought = IndexDataCacheFile(str(folder), self._impl.filename_base, None)
                self._brought._version = self._cache_file._version

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Returns what is kept for a signature, or None.

        numba would first load all that its compiler knows of types, 0.15 s of CPU, and 0.2 s more where scipy is
        installed. Machine code has no need of that, only of the functions that count references: what else it names
        comes with the modules that its pickle names. Compiling loads the rest when it begins.
        """
        rtsys.initialize(target_context)
        own = self._load_overload(sig, target_context)
        if own is not None or self._brought is None:
            return own
        of, (triple, *_), by = self._index_key(sig, target_context.codegen())
        brought = self._brought.load((of, (triple, brought_for(), ""), by))
        return brought and self._impl.rebuild(target_context, brought)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled. Of two processes that do so at once, one would leave the other out of the index."""
        self._impl.locator.ensure_cache_path()
        folder = os.open(self._cache_path, os.O_RDONLY)
        try:
            with suppress(OSError):  # not every file system locks folders; then it is compiled once more
                fcntl.flock(folder, fcntl.LOCK_EX)
            super().save_overload(sig, data)
        finally:
            os.close(folder)


def _compiled(function: Callable[P, R], **options: bool) -> Callable[P, R]:
    """Returns the function as machine code, compiled at the first call and kept."""
    dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
    dispatcher._cache = _Kept(function)
    return cast(Callable[P, R], dispatcher)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function to machine code: no Python object inside, the interpreter lock released, cached on disk."""
    return _compiled(function)


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that only kernels call: no wrapper for Python, which is a fifth of the time to compile it."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a small function into each kernel that calls it: handing over its arrays would cost 5 ns each."""
    return _compiled(function, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


int64 = cast(Callable[[Any], int], np.int64)
"""In a compiled loop: the number as 64 bits with a sign, so that what is called with it is compiled for one type."""


@intrinsic  # type: ignore[untyped-decorator]
def lent(typing: Any, array: Any) -> Any:
    """Returns an argument of a kernel without its count of references; the caller keeps it alive.

    Counting costs 5 to 10 ns for each function that an array is given to, compiled into the loop or not, and what is in
    memory must be read again after it.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(array)(context, builder, arguments[0])
        view.meminfo, view.parent = view.meminfo.type(None), view.parent.type(None)
        return view._getvalue()

    return array(array), code


@kernel
def at_least(deviation: float, mean: float) -> float:
    """Returns a standard deviation that can be divided by: equal values leave only a rest of rounding."""
    return float(max(deviation, 1e-9 * np.abs(mean), 1e-300))


@kernel
def score_of(share: float) -> float:
    """Returns the score, 0 to 100, of a deviation that is ``share`` of the limit: 75 at the limit, 87.5 at twice it."""
    return float(75 * share if share < 1 else 100 - 25 / share)


@kernel
def hash_bytes(data: npt.NDArray[np.uint8], begin: int, end: int) -> np.uint64:
    """64-bit hash of ``data[begin:end]``, eight bytes at a time (multiply and fold, after wyhash)."""
    h = np.uint64(end - begin) * np.uint64(0x9E3779B97F4A7C15)
    i = begin
    while i < end:
        word = np.uint64(0)
        stop = i + 8 if i + 8 < end else end
        shift = np.uint64(0)
        for j in range(i, stop):
            word |= np.uint64(data[j]) << shift
            shift += np.uint64(8)
        h = (h ^ word) * np.uint64(0xD6E8FEB86659FD93)
        h ^= h >> np.uint64(32)
        i = stop
    h *= np.uint64(0xD6E8FEB86659FD93)
    return h ^ (h >> np.uint64(29))


@kernel
def intern_codes(
    codes: npt.NDArray[np.int32],
    text: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int32],
    table: npt.NDArray[np.int32],
    hashes: npt.NDArray[np.uint64],
    arena: npt.NDArray[np.uint8],
    arena_ends: npt.NDArray[np.int64],
    count: int,
    slot_of_code: npt.NDArray[np.int32],
    slots: npt.NDArray[np.int32],
) -> int:
    """Give each row the slot of its key, in order of first appearance; returns the new number of keys.

    ``text`` and ``ends`` (n + 1 offsets) are the batch's dictionary. ``table`` is an open-addressing hash table of
    slots (a power of two, at most half full, -1 where free); a hit is verified byte by byte. Only codes that a row
    uses are interned: a filtered batch may carry a dictionary with keys that it has no rows of.
    """
    mask = len(table) - 1
    for row in range(len(codes)):
        code = codes[row]
        slot = slot_of_code[code]
        if slot < 0:
            begin, end = int64(ends[code]), int64(ends[code + 1])
            h = hash_bytes(text, begin, end)
            at = np.int64(h & np.uint64(mask))
            while True:
                slot = table[at]
                if slot < 0:
                    slot = count
                    start = arena_ends[count]
                    for j in range(end - begin):
                        arena[start + j] = text[begin + j]
                    arena_ends[count + 1] = start + end - begin
                    hashes[count] = h
                    table[at] = slot
                    count += 1
                    break
                if hashes[slot] == h and arena_ends[slot + 1] - arena_ends[slot] == end - begin:
                    start = arena_ends[slot]
                    same = True
                    for j in range(end - begin):
                        if arena[start + j] != text[begin + j]:
                            same = False
                            break
                    if same:
                        break
                at = (at + 1) & mask
            slot_of_code[code] = slot
        slots[row] = slot
    return count


@kernel
def rebuild_table(table: npt.NDArray[np.int32], hashes: npt.NDArray[np.uint64], count: int) -> None:
    """Fill an empty hash table with the first ``count`` slots."""
    mask = len(table) - 1
    for slot in range(count):
        at = np.int64(hashes[slot] & np.uint64(mask))
        while table[at] >= 0:
            at = (at + 1) & mask
        table[at] = slot
