"""Model: what a trained model forecasts, for all machines at once, while they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field as Setting

from tocsin.bases import added, judging, promised, require
from tocsin.batch import TIME_TYPE, Batch, Codes, Floats, Ints, as_numbers, as_times, floats, times_us
from tocsin.contracts import Operator
from tocsin.errors import ConfigError, TocsinError
from tocsin.estimate._windows import NONE_YET, fill_windows
from tocsin.models.conformal import AHEAD, CONFORMAL, OUTPUTS, PENDING, UPPER, follow
from tocsin.models.forecaster import KIND, Forecaster
from tocsin.models.manifest import Manifest
from tocsin.models.store import Store
from tocsin.state import Columns, Field

ADDED = tuple(
    pa.field(name, pa.float64())
    for name in ("y", "yhat", "yhat_lower", "yhat_upper", "ahead", "ahead_lower", "ahead_upper")
)
AHEAD_TIME = pa.field("ahead_time", TIME_TYPE)
READY = (pa.field("until_ready", pa.int64()), pa.field("version", pa.int64()))
SHADOW = tuple(pa.field(name, pa.float64()) for name in ("shadow_yhat", "shadow_lower", "shadow_upper"))
EXAMPLE = str(Path(__file__).parent.parent / "models" / "example")
"""Small models for docs and tests."""
ROWS = 4_096
"""Rows whose windows are held at once."""


@dataclass
class Following:
    """The state: what is remembered of each key, and the versions that are loaded (which are not part of a dump)."""

    columns: Columns
    champion: Forecaster
    shadow: Forecaster | None
    stamp: int
    refused: int = 0

    @property
    def beside(self) -> Manifest | None:
        """The shadow's manifest."""
        return self.shadow.manifest if self.shadow else None


class Model(Operator):
    """Forecasts a reading with a trained model of the store; all keys of a batch are asked about in one call.

    Each row gets ``y``, the reading, beside ``yhat``, ``yhat_lower`` and ``yhat_upper``, what was forecast for it
    before it came; and ``ahead``, ``ahead_lower``, ``ahead_upper``, what is forecast now, one horizon later (at
    ``ahead_time``, where the model has a period). ``until_ready`` says how many periods must still come until the
    window of the model is whole: a row without a number and a period without a row begin it anew. ``version`` is the
    one that made ``ahead``. The bounds begin as wide as training left them, then follow the errors of each key, as
    those of `forecast` do.

    It follows the champion of the store: another one that is promoted (``tocsin models promote``, ``rollback``) is
    taken up before the next batch, and windows are kept; one that foretells something else, another time ahead, is
    not, which is counted. A ``shadow`` is a second version that runs beside it, for comparison only.

    This is the one step that looks at more than its rows: a stream that is replayed after a promotion has the forecasts
    of the champion of then.

    Examples
    --------
    >>> tide = rows({"value": [20.0, 20.5, 20.87, 21.0, 20.87, 20.5, None, 19.5]})
    >>> said = feed(Model(model="tide", store=EXAMPLE), tide)
    >>> said["until_ready"].to_pylist()
    [3, 2, 1, 0, 0, 0, 4, 3]
    >>> [value and round(value) for value in said["yhat"].to_pylist()]
    [None, None, None, None, 21, 20, 20, None]
    """

    SHORTHAND: ClassVar[str | None] = "model"
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"model": "tide", "store": EXAMPLE},
        {"model": "pair", "store": EXAMPLE, "shadow": 2},
    )

    model: str
    """The model's name in the store."""
    store: str = "models"
    """The folder that models are kept in."""
    shadow: int | None = Setting(None, ge=1)
    """A version that runs beside the champion, for comparison: it adds ``shadow_yhat`` and its bounds."""

    @cached_property
    def _store(self) -> Store:
        return Store(self.store)

    def manifests(self) -> tuple[Manifest, Manifest | None]:
        """Returns what the champion of now and the shadow say of themselves."""
        champion = self._store.followed(self.model)
        if champion.kind != KIND:
            raise ConfigError(f"model '{self.model}' is of kind {champion.kind}; this step runs those of kind {KIND}")
        if self.shadow is None:
            return champion, None
        shadow = self._store.show(self.model, self.shadow)
        if shadow.inputs != champion.inputs or not _exchangeable(champion, shadow):
            raise ConfigError(
                f"version {self.shadow} of model '{self.model}' has other inputs, another target, horizon or period "
                f"than the champion; a shadow must have the same (tocsin models diff {self.model})"
            )
        return champion, shadow

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        champion, shadow = self.manifests()
        for column in champion.inputs:
            require(input, column, self.name(), number=True)
        every = (AHEAD_TIME,) if champion.settings["every_us"] else ()
        return added(
            input, (*judging(ADDED, champion.target), *every, *READY, *(SHADOW if shadow else ())), self.name()
        )

    def initial(self) -> Following:
        stamp = self._store.stamp(self.model)
        champion, shadow = self.manifests()
        return self._following(Columns(_fields(champion, shadow)), champion, shadow, stamp)

    def _following(self, columns: Columns, champion: Manifest, shadow: Manifest | None, stamp: int) -> Following:
        loaded = [_loaded(self.store, one.name, one.version, one.signature) for one in (champion, shadow) if one]
        return Following(columns, loaded[0], loaded[1] if shadow else None, stamp)

    def _follow(self, state: Following) -> Following:
        """Returns the state with the champion of now."""
        stamp = self._store.stamp(self.model)
        if stamp == state.stamp:
            return state
        old = state.champion.manifest
        try:
            champion, shadow = self.manifests()
            if not _exchangeable(old, champion) or not set(champion.inputs) <= set(old.inputs):
                raise ConfigError(f"version {champion.version} foretells something else")
            columns = _fitted(state.columns, _shape(old, state.beside), champion, shadow)
            new = self._following(columns, champion, shadow, stamp)
        except TocsinError:  # it is counted; the page and `tocsin models list` show who is followed
            state.stamp, state.refused = stamp, state.refused + 1
            return state
        new.refused = state.refused
        return new

    def step(self, state: Following, batch: Batch) -> tuple[Following, Sequence[Batch]]:
        state = self._follow(state)
        rows, columns, manifest = batch.rows, state.columns, state.champion.manifest
        slots = columns.slots(rows.column("key"))
        inputs = np.empty((rows.num_rows, len(manifest.inputs)))
        for j, column in enumerate(manifest.inputs):
            inputs[:, j] = floats(rows.column(column))
        inputs[~np.isfinite(inputs)] = np.nan
        times, every = times_us(rows), manifest.settings["every_us"] or 0
        steps, lacking = np.empty((2, len(slots)), np.int64)
        window = _window(manifest, state.beside)
        heard = [state.champion, *([state.shadow] if state.shadow else [])]
        ahead = np.empty((len(heard), len(slots)))
        for start in range(0, len(slots), ROWS):
            some = slice(start, start + ROWS)
            windows = np.empty((len(slots[some]), window, len(manifest.inputs)))
            fill_windows(
                slots[some], times[some], inputs[some], every, columns["time_us"], columns["period"],
                _wide(columns["recent"]), steps[some], lacking[some], windows,
            )  # fmt: skip
            for one, said in zip(heard, ahead, strict=True):
                said[some] = one.predict(windows[:, window - one.manifest.window :], _owners(one, columns, slots[some]))
        values = inputs[:, state.champion.at].copy()
        outs = [
            _followed(columns, which, one.manifest, slots, steps, values, said)
            for which, one, said in zip(("", "shadow "), heard, ahead, strict=False)
        ]
        return state, (batch.with_rows(self._answer(rows, values, outs, times, lacking, manifest)),)

    def _answer(
        self, rows: pa.RecordBatch, values: Floats, outs: Sequence[Floats], times: Ints, lacking: Ints,
        manifest: Manifest,
    ) -> pa.RecordBatch:  # fmt: skip
        added = [as_numbers(values), *map(as_numbers, outs[0])]
        has = added[1 + AHEAD].is_valid()
        if every := manifest.settings["every_us"]:
            added.append(pa.compute.if_else(has, as_times(times + manifest.horizon * every), None))
        added.append(pa.array(lacking))
        added.append(pa.compute.if_else(has, pa.scalar(manifest.version, pa.int64()), None))
        for out in outs[1:]:
            added += map(as_numbers, out[: UPPER + 1])
        return pa.RecordBatch.from_arrays([*rows.columns, *added], schema=promised(self, rows.schema))

    def counters(self, state: Following) -> Mapping[str, int]:
        return {"promotions refused": state.refused} if state.refused else {}

    def dump(self, state: Following) -> pa.Table:
        window, inputs = _shape(state.champion.manifest, state.beside)
        table = state.columns.dump()
        return table.append_column("shape", pa.repeat(" ".join((str(window), *inputs)), table.num_rows))

    def load(self, table: pa.Table) -> Following:
        stamp = self._store.stamp(self.model)
        champion, shadow = self.manifests()
        columns = Columns(_fields(champion, shadow))
        if table.num_rows:
            window, *inputs = table["shape"][0].as_py().split(" ")
            before = (int(window), tuple(inputs))
            held = _fields(champion, shadow) | {"recent": Field(width=before[0] * len(inputs), initial=np.nan)}
            columns = _fitted(Columns.load(held, table.drop_columns("shape")), before, champion, shadow)
        return self._following(columns, champion, shadow, stamp)


def _exchangeable(one: Manifest, other: Manifest) -> bool:
    """Whether both foretell the same, as far ahead, in the same periods."""
    return (one.kind, one.target, one.horizon, one.settings["every_us"]) == (
        other.kind, other.target, other.horizon, other.settings["every_us"],
    )  # fmt: skip


def _window(champion: Manifest, shadow: Manifest | None) -> int:
    return max(champion.window, shadow.window if shadow else 0)


def _shape(champion: Manifest, shadow: Manifest | None) -> tuple[int, tuple[str, ...]]:
    return _window(champion, shadow), champion.inputs


def _fields(champion: Manifest, shadow: Manifest | None) -> dict[str, Field]:
    window, inputs = _shape(champion, shadow)
    fields = {
        "time_us": Field(np.int64, NONE_YET),
        "period": Field(np.int64),
        "recent": Field(width=window * len(inputs), initial=np.nan),
    }
    for which, one in (("", champion), ("shadow ", shadow)):
        if one is not None:
            start = np.array(one.settings.get("conformal", CONFORMAL))
            fields[f"{which}settled"] = Field(np.int64)
            fields[f"{which}conformal"] = Field(width=len(CONFORMAL), initial=start)
            fields[f"{which}pending"] = Field(width=one.horizon * PENDING, initial=np.nan)
    return fields


def _fitted(old: Columns, shape: tuple[int, tuple[str, ...]], champion: Manifest, shadow: Manifest | None) -> Columns:
    """Returns what is remembered in the shape that other versions need: of their windows what is known of them."""
    fields = _fields(champion, shadow)
    (size, inputs), (new_size, new_inputs) = shape, _shape(champion, shadow)
    if (size, inputs) == (new_size, new_inputs) and fields.keys() == old.fields.keys():
        return old
    new = Columns(fields)
    slots = new.slots(old.keys.names()) if len(old) else np.empty(0, np.int32)
    for name in fields.keys() & old.fields.keys() - {"recent"}:
        new.arrays[name][slots] = old[name][: len(old)]
    period = old["period"][: len(old)]
    before = _wide(old["recent"])[: len(old)].reshape(-1, size, len(inputs))
    after = np.full((len(new["period"]), new_size, len(new_inputs)), np.nan)
    for age in range(min(size, new_size)):
        for j, name in enumerate(new_inputs):
            if name in inputs:
                row = np.arange(len(old))
                after[slots, (period - age) % new_size, j] = before[row, (period - age) % size, inputs.index(name)]
    new.arrays["recent"][...] = after.reshape(new["recent"].shape)
    return new


def _followed(
    columns: Columns, which: str, manifest: Manifest, slots: Codes, steps: Ints, values: Floats, ahead: Floats
) -> Floats:
    out = np.full((OUTPUTS, len(slots)), np.nan)
    follow(
        slots, steps, values, ahead, manifest.horizon, manifest.settings["coverage"], columns[f"{which}settled"],
        columns[f"{which}conformal"], columns[f"{which}pending"], out,
    )  # fmt: skip
    return out


def _owners(model: Forecaster, columns: Columns, slots: Codes) -> Ints | None:
    """Returns whose weights each row needs; None where one model is for all."""
    if not model.keys:
        return None
    known = np.array([model.keys.get(columns.keys.name(s), -1) for s in range(len(columns))], np.int64)
    return known[slots]


def _wide(array: Floats) -> Floats:
    return array.reshape(len(array), -1)


@lru_cache(maxsize=8)
def _loaded(store: str, name: str, version: int, signature: str) -> Forecaster:
    """A version is loaded once; the signature tells one store from another that came into its place."""
    return Forecaster.open(Store(store), name, version)
