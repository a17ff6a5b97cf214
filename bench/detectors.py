"""What each detector costs: python bench/detectors.py [--rows 400000] [--detector ewma]

For every part in detect/: CPU nanoseconds a reading for the whole `step` (slots of the keys, judging, building the
batch that leaves) with 1, 1,000 and 100,000 keys, after a first pass in which each key has learnt (1,000 keys do, and
their states, loaded a hundred times over, are those of 100,000); and bytes of state a key, without and with its name
and place in the hash table. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pyarrow as pa

from tocsin.bases import Detector
from tocsin.batch import KEY, TIME, Batch, as_times
from tocsin.contracts import Operator, State
from tocsin.detect.multivariate import Multivariate
from tocsin.pipeline.registry import find, names
from tocsin.state import Columns

KEYS = (1, 1_000, 100_000)
CHUNK = 10_000  # readings in a batch: what the runner hands on under load
SLOW = {"downtime": 4}  # these take that many times fewer readings
LEARNT = 700  # readings that each key has behind it: `drift` learns from 600
STATES = ("run", "run", "run", "idle")


def operators() -> dict[str, Operator]:
    """The parts of detect/, as they ship, or with the columns of `readings`."""
    given = {
        "multivariate": {"of": ["value", "second", "third"]},
        "downtime": {"state": "mode", "states": {"run": "running", "idle": "idle"}},
    }
    found = {}
    for name, module in names("operator").items():
        # What a job costs depends on the job.
        if module.startswith("tocsin.detect.") and name != "job":
            cls = find("operator", name)
            assert issubclass(cls, Operator)
            if name in given or name == "deadman" or issubclass(cls, Detector):
                found[name] = cls.model_validate(given.get(name, {}))
    return found


def machines(keys: int) -> pa.Array:
    """Names of keys."""
    return pa.array([f"machine-{i:06}" for i in range(keys)])


def readings(keys: int, rows: int, begin: int, seed: int) -> list[Batch]:
    """Batches in time order, keys in turn: noise, three related signals, a state that changes now and then."""
    rng = np.random.default_rng(seed)
    texts = machines(keys)
    batches = []
    for at in range(begin, begin + rows, CHUNK):
        index = np.arange(at, min(at + CHUNK, begin + rows))
        base = rng.normal(50, 1, len(index))
        used, codes = np.unique(index % keys, return_inverse=True)  # a decoder's dictionary: only keys that are there
        key = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), texts.take(pa.array(used)))
        times = 1_767_225_600_000_000 + index // keys * 1_000_000
        states = (index // keys // 60 + index % keys) % len(STATES)
        columns = {
            "value": pa.array(base),
            "second": pa.array(2 * base + rng.normal(size=len(index))),
            "third": pa.array(rng.normal(size=len(index))),
            "mode": pa.DictionaryArray.from_arrays(pa.array(states.astype(np.int32)), pa.array(STATES)),
        }
        schema = pa.schema([KEY, TIME, *(pa.field(name, array.type) for name, array in columns.items())])
        rows_ = pa.RecordBatch.from_arrays([key, as_times(times), *columns.values()], schema=schema)
        batches.append(Batch(rows_, int(times[0])))
    return batches


def state_bytes(state: object) -> tuple[float, float] | None:
    """Bytes a key: its own numbers; and all that is held, names and room to grow included."""
    columns = state if isinstance(state, Columns) else getattr(state, "columns", None)
    if not isinstance(columns, Columns) or not len(columns):
        return None
    own = sum(
        array.itemsize * field.width
        for array, field in zip(columns.arrays.values(), columns.fields.values(), strict=True)
    )
    held = sum(array.nbytes for array in columns.arrays.values())
    held += sum(value.nbytes for value in vars(columns.keys).values() if isinstance(value, np.ndarray))
    return own, held / len(columns)


def learnt(operator: Operator, keys: int) -> State:
    """The state of so many keys after `LEARNT` readings of each."""
    taught = min(keys, KEYS[1])
    state = operator.initial()
    for batch in readings(taught, LEARNT * taught, 0, 1):
        state, _ = operator.step(state, batch)
    if keys == taught:
        return state
    table = operator.dump(state)
    table = table.take(pa.array(np.arange(keys) % taught))
    return operator.load(table.set_column(0, "key", machines(keys)))


def cost_ns(operator: Operator, keys: int, rows: int) -> tuple[float, tuple[float, float] | None]:
    """CPU nanoseconds a reading, the median over batches; and bytes a key."""
    state = learnt(operator, keys)
    costs = []
    for batch in readings(keys, rows, LEARNT * keys, 2):
        begin = time.process_time_ns()
        state, _ = operator.step(state, batch)
        costs.append((time.process_time_ns() - begin) / len(batch))
    return float(np.median(costs)), state_bytes(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="readings measured for each detector and key count")
    parser.add_argument("--detector", action="append", help="only this one (several may be named)")
    options = parser.parse_args()
    pa.set_cpu_count(1)  # so that CPU time is the cost and not the waiting of a pool
    figures: dict[str, dict[str, float]] = {}
    print(f"{'detector':<14}" + "".join(f"{f'{keys:,} keys':>14}" for keys in KEYS) + f"{'bytes a key':>14}{'held':>8}")
    for name, operator in operators().items():
        if options.detector and name not in options.detector:
            continue
        figure: dict[str, float] = {}
        for keys in KEYS:
            rows = options.rows // SLOW.get(name, 1)
            if isinstance(operator, Multivariate) and keys == KEYS[-1]:
                operator_ = operator.model_copy(update={"learn": 20})  # else 1 GB of rows to learn from
            else:
                operator_ = operator
            cost, size = cost_ns(operator_, keys, rows)
            figure[f"ns_{keys}_keys"] = round(cost, 1)
            if size is not None and keys == 1_000:
                figure["bytes"], figure["held_bytes"] = round(size[0]), round(size[1])
        figures[name] = figure
        print(
            f"{name:<14}" + "".join(f"{figure[f'ns_{keys}_keys']:>11.0f} ns" for keys in KEYS)
            + f"{figure.get('bytes', float('nan')):>14.0f}{figure.get('held_bytes', float('nan')):>8.0f}"
        )  # fmt: skip
    print(json.dumps({"rows": options.rows, "detectors": figures}))


if __name__ == "__main__":
    main()
