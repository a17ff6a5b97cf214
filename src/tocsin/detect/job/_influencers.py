"""Who is to blame for a record: values of the influencer fields."""

from __future__ import annotations

import numpy as np

from tocsin.detect.job._bucket import Bucket
from tocsin.detect.job._definition import AnalysisConfig
from tocsin.detect.job._found import Finding, fields

INFLUENTIAL = 0.5
"""Share of a record's documents (or of its value) from which on a value of an influencer field is to blame."""


def influencers(config: AnalysisConfig, bucket: Bucket, one: Finding) -> dict[str, list[str]]:
    """Values of the influencer fields that most of the record's rows (or of its value) have."""
    detector = config.detectors[one.detector]
    own = fields(detector, one.group)
    blamed: dict[str, list[str]] = {}
    for name in config.influencers:
        if own.get(name) is not None:
            blamed[name] = [str(own[name])]
            continue
        codes, words = bucket.codes(name)
        here = one.rows[codes[one.rows] >= 0]
        if not len(here):
            continue
        weight = bucket.weight[here]
        if one.function in ("sum", "non_null_sum", "mean", "max", "min") and detector.field_name is not None:
            x = np.nan_to_num(bucket.numbers(detector.field_name)[here])
            if one.function in ("max", "min"):
                weight = (x == (x.max() if one.function == "max" else x.min())).astype(np.float64)
            elif one.actual[0] > one.typical[0] and (x > 0).any():
                weight = np.maximum(x, 0.0) * (weight if one.function == "mean" else 1.0)
        shares = np.bincount(codes[here], weight, len(words))
        total = shares.sum()
        values = [str(words[c]) for c in np.flatnonzero(shares >= INFLUENTIAL * total)] if total > 0 else []
        if values:
            blamed[name] = values
    return blamed
