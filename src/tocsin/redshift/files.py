"""The files of a load in S3: rows cut into as many as the cluster reads at once, compressed, and named by a manifest.

Amazon Redshift Database Developer Guide, "Loading data from compressed and uncompressed files": a multiple of the
number of slices, of about equal size, 1 MB to 1 GB after compression; "Using a manifest to specify data files".
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa

from tocsin.objects.store import Store
from tocsin.redshift.encode import csv

FILE_BYTES = (4 << 20, 512 << 20)
"""Least and greatest size of a file before it is compressed; a single one may be smaller."""
LEVEL = 4
"""Of gzip: COPY reads it as fast as any other, and stronger ones cost more than the network saves."""


@dataclass(frozen=True, slots=True)
class LoadedFiles:
    """What was put for one COPY."""

    manifest: str
    """Its address."""
    addresses: Sequence[str]
    """Of the files, in the order of the rows."""
    ends: Sequence[int]
    """The place behind the last row of each."""


class LoadFiles:
    """The folder of one sink in S3. What lies in it belongs to a load that goes on, or to one that was broken off."""

    def __init__(self, store: Store, address: str, sink: str, slices: int) -> None:
        self._store, self._address, self._slices = store, address.rstrip("/"), slices
        self.folder = hashlib.sha256(sink.encode()).hexdigest()[:12]

    def put(self, columns: Sequence[pa.Array], null: str) -> LoadedFiles:
        """Write rows, given as columns of text with at least one row, under names that nobody has used before."""
        count, size = len(columns[0]), sum(int(column.nbytes) for column in columns)
        place = f"{self.folder}/{uuid.uuid4().hex}"
        names, ends, lengths = [], [], []
        for i, (begin, end) in enumerate(cut(count, size, self._slices)):
            data = gzip.compress(csv([column.slice(begin, end - begin) for column in columns], null), LEVEL, mtime=0)
            names.append(f"{place}/part-{i:04d}.csv.gz")
            ends.append(end)
            lengths.append(len(data))
            self._store.create(names[-1], data)
        addresses = [f"{self._address}/{name}" for name in names]
        entries = [
            {"url": address, "mandatory": True, "meta": {"content_length": length}}
            for address, length in zip(addresses, lengths, strict=True)
        ]
        self._store.create(f"{place}/manifest", json.dumps({"entries": entries}).encode())
        return LoadedFiles(f"{self._address}/{place}/manifest", addresses, ends)

    def sweep(self) -> None:
        """Delete all files of the folder: whatever load they belonged to is done, or has failed."""
        for one in list(self._store.objects(self.folder)):
            self._store.delete(one.name)

    def close(self) -> None:
        self._store.close()


def cut(count: int, size: int, slices: int) -> list[tuple[int, int]]:
    """Return from which row to which each file reaches, for rows that take ``size`` bytes.

    As many files as slices, or a multiple of it where they would be too large; fewer where they would be too small.

    Examples
    --------
    >>> cut(10, 100, 4), cut(10, 64 << 20, 4)
    ([(0, 10)], [(0, 3), (3, 5), (5, 8), (8, 10)])
    """
    least, most = FILE_BYTES
    files = slices * math.ceil(size / (slices * most)) if size > slices * least else size // least
    files = max(1, min(files, count))
    ends = [math.ceil(count * i / files) for i in range(files + 1)]
    return list(pairwise(ends))
