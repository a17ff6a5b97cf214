"""Write the readings of benchmark J1: NDJSON of some 97 bytes a line, seeded, up to 2 s out of order.

python bench/j1_data.py readings.ndjson --rows 5000000 --machines 1000 --hz 1
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

BEGIN_US = 1_767_225_600_000_000
DELAY_US = 2_000_000
CHUNK = 500_000
Bytes = npt.NDArray[np.uint8]


def chunks(rows: int, machines: int, hz: float, seed: int) -> Iterator[bytes]:
    """The lines, in order of arrival: each reading up to 2 s after it was taken."""
    random = np.random.default_rng(seed)
    phase = random.integers(0, int(1e6 / hz), machines)
    level = random.uniform(15, 80, machines)
    late: tuple[npt.NDArray[np.int64], ...] = (np.empty(0, np.int64),) * 4
    for begin in range(0, rows, CHUNK):
        i = np.arange(begin, min(begin + CHUNK, rows))
        machine = i % machines
        taken = (i // machines * 1e6 / hz).astype(np.int64) + phase[machine]
        arrived = taken + random.integers(0, DELAY_US, len(i))
        day = np.sin(taken / 86_400e6 * 2 * np.pi)
        value = level[machine] + 3 * day + random.normal(0, 0.5, len(i))
        value += np.where(random.random(len(i)) < 0.0005, 8.0, 0.0)
        milli = np.round(value * 1000).astype(np.int64)
        columns = [np.concatenate(pair) for pair in zip(late, (arrived, taken, machine, milli), strict=True)]
        order = np.argsort(columns[0], kind="stable")
        # What is taken later may still arrive before these.
        safe = (
            len(order)
            if begin + CHUNK >= rows
            else int(np.searchsorted(columns[0][order], i[-1] // machines * 1e6 / hz))
        )
        late = tuple(c[order[safe:]] for c in columns)
        _, taken, machine, milli = (c[order[:safe]] for c in columns)
        yield lines(taken, machine, milli, max(len(str(machines - 1)), 4))


def lines(
    taken: npt.NDArray[np.int64], machine: npt.NDArray[np.int64], milli: npt.NDArray[np.int64], width: int
) -> bytes:
    """Lines as bytes, made column by column; a zero byte is one to be left out."""
    seconds, rest = np.divmod(BEGIN_US + taken, 1_000_000)
    stamps = np.datetime_as_string(seconds.astype("datetime64[s]")).astype("S19")
    decimals = milli % 1000
    fraction = digits(decimals, 3)
    fraction[decimals % 10 == 0, 2] = 0
    fraction[decimals % 100 == 0, 1] = 0
    pieces = [
        b'{"machine":"machine-', digits(machine, width), b'","sensor":"temperature","ts":"',
        stamps.view(np.uint8).reshape(-1, 19), b".", digits(rest // 1000, 3), b'Z","value":',
        digits(milli // 1000, 3, blank=True), b".", fraction, b"}\n",
    ]  # fmt: skip
    count = len(taken)
    table = np.hstack(
        [np.broadcast_to(np.frombuffer(p, np.uint8), (count, len(p))) if isinstance(p, bytes) else p for p in pieces]
    )
    return table[table != 0].tobytes()


def digits(numbers: npt.NDArray[np.int64], width: int, blank: bool = False) -> Bytes:
    """Numbers as digits, shape (rows, width); leading zeros left out if ``blank``."""
    powers = 10 ** np.arange(width - 1, -1, -1)
    found = (numbers[:, None] // powers % 10 + 48).astype(np.uint8)
    if blank:
        found[(numbers[:, None] < powers) & (powers > 1)] = 0
    return found


def write(path: Path, rows: int = 5_000_000, machines: int = 1_000, hz: float = 1.0, seed: int = 1) -> None:
    with open(path, "wb") as file:
        for chunk in chunks(rows, machines, hz, seed):
            file.write(chunk)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--machines", type=int, default=1_000)
    parser.add_argument("--hz", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    begin = time.perf_counter()
    write(given.path, given.rows, given.machines, given.hz, given.seed)
    size = given.path.stat().st_size
    print(json.dumps({"rows": given.rows, "bytes": size, "seconds": round(time.perf_counter() - begin, 2)}))
