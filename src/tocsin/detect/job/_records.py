"""What was found in a bucket, as results: records, influencers, the bucket itself, and bounds of the models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tocsin.detect.job._bucket import Bucket, Group
from tocsin.detect.job._definition import Definition, JobDetector
from tocsin.detect.job._found import Finding, names
from tocsin.detect.job._influencers import influencers
from tocsin.detect.job._renormalise import follow
from tocsin.detect.job._score import together
from tocsin.detect.job._state import JobState
from tocsin.domain.alarms import severity


class ResultRecords:
    """Makes the results of one job; scores are the state's."""

    def __init__(self, definition: Definition, warm: int) -> None:
        self.definition, self.warm = definition, warm
        self.config = definition.job.analysis_config
        self.span_s = self.config.bucket_span

    def of(self, state: JobState, bucket: Bucket, findings: list[Finding]) -> list[dict[str, Any]]:
        """All results of a bucket; its surprises count from now on."""
        base = {
            "time": bucket.begin_us, "timestamp": bucket.begin_us, "job_id": self.definition.job.job_id,
            "bucket_span": self.span_s, "is_interim": False,
        }  # fmt: skip
        findings.sort(key=lambda f: -f.surprise)
        worst = findings[0].surprise if findings else 0.0
        for one in findings:
            one.influencers = influencers(self.config, bucket, one)
        blamed: dict[tuple[str, str], list[float]] = {}
        for one in findings:
            for name, values in one.influencers.items():
                for value in values:
                    blamed.setdefault((name, value), []).append(one.surprise)
        whole = together([f.surprise for f in findings])
        state.scores["record"].observe(worst)
        state.scores["bucket"].observe(whole)
        state.scores["influencer"].observe(max(map(together, blamed.values()), default=0.0))
        rows = [self._record(state, base, one) for one in findings]
        follow(state, findings, rows)
        for (name, value), surprises in sorted(blamed.items(), key=lambda b: -together(b[1])):
            score = round(state.scores["influencer"].score(together(surprises)), 6)
            rows.append(
                {
                    **base, "key": value, "result_type": "influencer", "influencer_field_name": name,
                    "influencer_field_value": value, "influencer_score": score, "initial_influencer_score": score,
                    "probability": 10.0 ** -max(surprises), "severity": severity(score),
                }
            )  # fmt: skip
        score = round(state.scores["bucket"].score(whole), 6)
        warming = f"warming {state.buckets}/{self.warm}" if state.buckets < self.warm else None
        rows.append(
            {
                **base, "key": self.definition.job.job_id, "result_type": "bucket", "anomaly_score": score,
                "initial_anomaly_score": score, "severity": severity(score), "warming": warming,
                "event_count": round(float(bucket.weight.sum())), "probability": 10.0**-whole,
            }
        )  # fmt: skip
        return rows

    def plot(
        self, bucket: Bucket, at: int, detector: JobDetector, part: str, group: Group, actual: float, typical: float,
        lower: float, upper: float,
    ) -> dict[str, Any]:  # fmt: skip
        """What the model held typical of one value, and its bounds."""
        return {
            "time": bucket.begin_us, "timestamp": bucket.begin_us, "job_id": self.definition.job.job_id,
            "bucket_span": self.span_s, "is_interim": False, **names(detector, group), "key": self._key(group),
            "result_type": "model_plot", "detector_index": at, "function": detector.function,
            "function_description": part, "field_name": detector.field_name, "actual": [float(actual)],
            "typical": [float(typical)], "model_lower": float(lower), "model_upper": float(upper),
            "model_median": float(typical),
        }  # fmt: skip

    def _record(self, state: JobState, base: Mapping[str, Any], one: Finding) -> dict[str, Any]:
        detector = self.config.detectors[one.detector]
        score = round(state.scores["record"].score(one.surprise), 6)
        lower, upper, median = one.bounds or (None, None, None)
        return {
            **base, **names(detector, one.group), "key": self._key(one.group), "result_type": "record",
            "detector_index": one.detector, "function": detector.function, "function_description": one.function,
            "field_name": detector.field_name, "actual": one.actual, "typical": one.typical,
            "probability": one.probability, "record_score": score, "initial_record_score": score,
            "multi_bucket_impact": round(one.impact, 3), "severity": severity(score),
            "influencers": json.dumps(
                [{"influencer_field_name": n, "influencer_field_values": v} for n, v in one.influencers.items()]
            ) if one.influencers else None,
            "causes": json.dumps(one.causes) if one.causes else None,
            "model_lower": lower, "model_upper": upper, "model_median": median,
        }  # fmt: skip

    def _key(self, group: Group) -> str:
        return "/".join(value for value in group if value is not None) or self.definition.job.job_id
