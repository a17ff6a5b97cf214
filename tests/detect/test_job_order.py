"""A job gives the same results whatever order Python keeps its sets in: a redo after a crash is another process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

SCRIPT = """
import hashlib, numpy as np
from tocsin.detect.job import Job
from tocsin.testing import rows, stream
r = np.random.default_rng(4)
n = 6000
job = Job(definition={"analysis_config": {"bucket_span": "1m", "influencers": ["user", "host"], "detectors": [
    {"function": "rare", "by_field_name": "user", "partition_field_name": "host"},
    {"function": "freq_rare", "by_field_name": "user", "over_field_name": "host"},
    {"function": "high_count", "partition_field_name": "host", "exclude_frequent": "all", "over_field_name": "user"},
    {"function": "mean", "field_name": "value", "partition_field_name": "host"},
]}, "data_description": {"time_field": "time"}})
data = rows({"time": np.arange(n), "value": r.normal(size=n), "host": [f"h{i}" for i in r.integers(0, 9, n)],
             "user": [f"u{i}" for i in r.zipf(1.6, n) % 40]})
state, told = job.initial(), hashlib.sha256()
for batch in stream(data, 1000):
    state, out = job.step(state, batch)
    for one in out:
        told.update(repr(one.rows.to_pylist()).encode())
told.update(repr(job.dump(state).to_pylist()).encode())
print(told.hexdigest())
"""


def test_results_and_state_do_not_depend_on_the_hash_seed() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert len(told[0].strip()) == 2 * hashlib.sha256().digest_size
    assert len(set(told)) == 1
