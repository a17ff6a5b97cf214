"""What an anomaly-detection job and its datafeed say: Elastic's JSON, read tolerantly, refused in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tocsin.errors import ConfigError, UnknownName

ALIASES = {
    "c": "count", "nzc": "non_zero_count", "dc": "distinct_count", "avg": "mean", "nn_sum": "non_null_sum",
    "nnsum": "non_null_sum",
}  # fmt: skip
SIDED = ("count", "non_zero_count", "distinct_count", "info_content", "mean", "median", "sum", "non_null_sum", "varp")
"""Functions with a form for one side: high_count, low_count ..."""
PLAIN = ("min", "max", "metric", "rare", "freq_rare", "time_of_day", "time_of_week", "lat_long")
WITHOUT_FIELD = ("count", "non_zero_count", "rare", "freq_rare", "time_of_day", "time_of_week")
FUNCTIONS = (*PLAIN, *(side + name for name in SIDED for side in ("", "high_", "low_")))
UNIT_S = {"nanos": 1e-9, "micros": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"(-?\d+(?:\.\d+)?)\s*(nanos|micros|ms|s|m|h|d|w)?")


def seconds(value: Any) -> float:
    """A time as Elastic writes it: ``15m``, ``900000ms``, or a bare number of seconds."""
    match = _SPAN.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if not match:
        raise ValueError(f"{value!r} is not a length of time; write it as 15m, 1h or 900s")
    return float(match[1]) * UNIT_S[match[2] or "s"]


def _instant(value: Any) -> float:
    if isinstance(value, int | float):
        return float(value) / 1000
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        return float(value) / 1000
    parsed = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


Span = Annotated[float, BeforeValidator(seconds)]
Instant = Annotated[float, BeforeValidator(_instant)]
Lower = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Condition(_Model):
    applies_to: Annotated[Literal["actual", "typical", "diff_from_typical", "time"], Lower]
    operator: Annotated[Literal["gt", "gte", "lt", "lte"], Lower]
    value: float


class Scope(_Model):
    filter_id: str
    filter_type: Annotated[Literal["include", "exclude"], Lower] = "include"


class Rule(_Model):
    actions: tuple[Annotated[Literal["skip_result", "skip_model_update", "force_time_shift"], Lower], ...] = (
        "skip_result",
    )
    scope: Mapping[str, Scope] = {}
    conditions: tuple[Condition, ...] = ()
    params: Mapping[str, Any] = {}

    @model_validator(mode="after")
    def _says_when(self) -> Rule:
        if not self.scope and not self.conditions:
            raise ValueError("a rule needs a scope or a condition")
        return self

    @property
    def shift_s(self) -> float:
        """By how much ``force_time_shift`` moves the model's clock."""
        return float((self.params.get("force_time_shift") or {}).get("time_shift_amount", 0))


class JobDetector(_Model):
    function: str = "metric"
    field_name: str | None = None
    by_field_name: str | None = None
    over_field_name: str | None = None
    partition_field_name: str | None = None
    use_null: bool = False
    exclude_frequent: Annotated[Literal["all", "none", "by", "over"], Lower] = "none"
    custom_rules: tuple[Rule, ...] = ()
    detector_description: str | None = None
    detector_index: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        given = {k: v for k, v in given.items() if v is not None and v != ""}
        rules = given.pop("detector_rules", given.pop("rules", None))
        if rules and "custom_rules" not in given and all("actions" in rule for rule in rules):
            given["custom_rules"] = rules  # before version 6.3 the list had this name
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> JobDetector:
        name = self.base
        if name not in SIDED + PLAIN or (self.side and name not in SIDED):
            raise ValueError(str(UnknownName("function", self.function, FUNCTIONS)))
        if self.field_name is None and name not in WITHOUT_FIELD:
            raise ValueError(f"function {self.function} needs field_name")
        if self.field_name is not None and name in WITHOUT_FIELD:
            raise ValueError(f"function {self.function} takes no field_name")
        if name in ("rare", "freq_rare") and not self.by_field_name:
            raise ValueError(f"function {self.function} needs by_field_name")
        if name == "freq_rare" and not self.over_field_name:
            raise ValueError("function freq_rare needs over_field_name")
        if name == "non_zero_count" and self.over_field_name:
            raise ValueError(f"function {self.function} takes no over_field_name")
        fields = [f for f in (self.by_field_name, self.over_field_name, self.partition_field_name) if f]
        if len(set(fields)) < len(fields):
            raise ValueError("by_field_name, over_field_name and partition_field_name must be different fields")
        for rule in self.custom_rules:
            if stray := set(rule.scope) - set(fields):
                raise ValueError(f"custom_rules: scope names '{min(stray)}', which is no by, over or partition field")
            about_values = any(c.applies_to != "time" for c in rule.conditions)
            if about_values and name in ("rare", "freq_rare", "lat_long", "metric"):
                raise ValueError(f"custom_rules: with {self.function} a condition can only apply to time")
        return self

    @property
    def side(self) -> int:
        """1: only high values are anomalous; -1: only low ones; 0: both."""
        return 1 if self.function.lower().startswith("high_") else -1 if self.function.lower().startswith("low_") else 0

    @property
    def base(self) -> str:
        """The function without its side, by its full name."""
        plain = self.function.lower()
        plain = plain.removeprefix("high_").removeprefix("low_")
        return ALIASES.get(plain, plain)

    @property
    def entity_fields(self) -> tuple[str, ...]:
        """The fields that split the analysis."""
        return tuple(f for f in (self.partition_field_name, self.by_field_name, self.over_field_name) if f)


class AnalysisConfig(_Model):
    bucket_span: Span = 300.0
    detectors: tuple[JobDetector, ...] = Field(min_length=1)
    influencers: tuple[str, ...] = ()
    summary_count_field_name: str | None = None
    latency: Span = 0.0
    categorization_field_name: str | None = None
    categorization_filters: tuple[str, ...] = ()
    model_prune_window: Span | None = None
    multivariate_by_fields: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _fits_together(self) -> AnalysisConfig:
        if self.bucket_span <= 0:
            raise ValueError("bucket_span must be longer than nothing")
        categories = any("mlcategory" in d.entity_fields for d in self.detectors)
        if categories and not self.categorization_field_name:
            raise ValueError("a detector uses mlcategory, which needs categorization_field_name")
        for pattern in self.categorization_filters:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"categorization_filters: {pattern!r} is no regular expression ({error})") from error
        return self


class Description(_Model):
    time_field: str = "@timestamp"
    time_format: str | None = None


class ModelPlot(_Model):
    enabled: bool = True
    terms: str | None = None


class Event(_Model):
    start_time: Instant
    end_time: Instant
    description: str = ""
    skip_result: bool = True
    skip_model_update: bool = True
    force_time_shift: float | None = None


class JobConfig(_Model):
    job_id: str = "job"
    analysis_config: AnalysisConfig
    data_description: Description = Description()
    model_plot_config: ModelPlot | None = None
    renormalization_window_days: float | None = None


class Datafeed(_Model):
    query: Mapping[str, Any] = {"match_all": {}}
    aggregations: Mapping[str, Any] | None = None
    script_fields: Mapping[str, Any] = {}
    runtime_mappings: Mapping[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _short_names(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        given = {k: v for k, v in given.items() if v is not None}
        if "aggs" in given:
            given.setdefault("aggregations", given.pop("aggs"))
        return given


@dataclass(frozen=True)
class Definition:
    """A job with all that belongs to it."""

    job: JobConfig
    datafeed: Datafeed
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    events: Sequence[Event] = ()


def read_json(path: Path) -> Mapping[str, Any]:
    """The job in a file; a file of the NDJSON kind or one that holds no object is refused."""
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if isinstance(tree, list) and len(tree) == 1:
        tree = tree[0]
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: an anomaly job is a JSON object, this is {_kind(tree)}")
    return tree


def parse(tree: Mapping[str, Any], which: str | None = None) -> Definition:
    """A job out of what the API takes or gives back, an export of Kibana, or a module's file."""
    job, feed, path = _parts(tree, which)
    parsed = _validated(JobConfig, {"job_id": tree.get("id") or "job", **_tidied(job)}, path)
    datafeed = _validated(Datafeed, feed, "datafeed_config")
    filters = {
        str(one["filter_id"]): tuple(map(str, one.get("items", ())))
        for one in _listed(tree.get("filters"))
        if isinstance(one, Mapping) and "filter_id" in one
    }
    calendars = [c for c in _listed(tree.get("calendars")) if isinstance(c, Mapping)]
    events = [*_listed(tree.get("events")), *(e for c in calendars for e in _listed(c.get("events")))]
    return Definition(parsed, datafeed, filters, [_validated(Event, e, "events") for e in events])


def _parts(tree: Mapping[str, Any], which: str | None) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    """The job, its datafeed, and where the job stands."""
    listed = [one.get("job", one) for one in _listed(tree.get("jobs")) if isinstance(one, Mapping)]
    listed = [{**one, **one["config"]} if isinstance(one.get("config"), Mapping) else one for one in listed]
    place = "jobs[0]"
    if not listed:
        inner = next((tree[n] for n in ("job", "job_config", "config") if isinstance(tree.get(n), Mapping)), None)
        listed, place = [inner if inner is not None and "analysis_config" not in tree else tree], ""
    names = [str(one.get("job_id", one.get("id", "job"))) for one in listed]
    if which is not None and which not in names:
        raise ConfigError(str(UnknownName("job", which, names)))
    if which is None and len(listed) > 1:
        raise ConfigError(f"the file holds {len(listed)} jobs; say which one: {', '.join(names)}")
    job = listed[names.index(which) if which is not None else 0]
    if "analysis_config" not in job:
        raise ConfigError(f"{place or 'job'}: there is no analysis_config; what is there is [{', '.join(job)}]")
    feeds = [one.get("datafeed", one) for one in _listed(tree.get("datafeeds")) if isinstance(one, Mapping)]
    feeds = [{**one, **one["config"]} if isinstance(one.get("config"), Mapping) else one for one in feeds]
    own = job.get("datafeed_config") or tree.get("datafeed_config") or tree.get("datafeed")
    matching = [f for f in feeds if f.get("job_id", names[0]) in names and f.get("job_id") in (None, job.get("job_id"))]
    return job, own or next(iter(matching or feeds), {}), place


def _tidied(job: Mapping[str, Any]) -> Mapping[str, Any]:
    known = {k: v for k, v in job.items() if v is not None}
    if "id" in known:
        known.setdefault("job_id", known["id"])
    return known


def _validated(model: type[Any], given: Any, place: str) -> Any:
    if isinstance(given, Mapping):
        given = {k: v for k, v in given.items() if v is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (place, *first["loc"]) if part != "")
        where = re.sub(r"\.(\d+)", r"[\1]", where)
        said = "this field is needed" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {said}") from error


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "null"}.get(type(value), type(value).__name__)
