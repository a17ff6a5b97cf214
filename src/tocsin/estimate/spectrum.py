"""Spectrum: what waveforms of vibration say of a machine: level and zone, orders, and which part of a bearing fails."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from pydantic import Field as Setting
from pydantic import field_validator, model_validator

from tocsin.bases import added, promised, require
from tocsin.batch import (
    KEY,
    REJECTED,
    REJECTED_SCHEMA,
    TIME,
    Batch,
    Floats,
    Ints,
    as_numbers,
    floats,
    in_words,
    rejected,
)
from tocsin.contracts import Operator
from tocsin.domain.bearings import BEARINGS, Bearing
from tocsin.domain.severity import ZONES, MachineClass, zone_numbers
from tocsin.errors import SchemaError, UnknownName
from tocsin.estimate import _envelope as envelope
from tocsin.estimate import _waveform as waveform
from tocsin.estimate._blocks import SAMPLES_MIN, Blocks, Waveforms, collect, collected_fields
from tocsin.estimate._spectra import SPECTRA, Drawn
from tocsin.settings.quantities import Duration
from tocsin.state import Columns, Field

GRAVITY = 9.80665
"""One g in m/s²."""
AT_ONCE = 32
"""So many blocks go through the FFT together: that halves the cost of each, and they stay in the cache."""
TURNS_MIN = 8
"""In a block of fewer turns of the shaft, the lines of faults and of the shaft lie too close together."""
UNUSABLE = {
    "rate_invalid": "the sample rate must be a positive number of Hz",
    "waveform_short": f"a waveform needs {SAMPLES_MIN} samples or more",
    "waveform_not_finite": "a sample of the waveform is no finite number",
    "sample_out_of_order": "the sample is older than the one before it",
}
"""Why a waveform or a sample leaves by port ``rejected``."""
FAULT_RATIOS = ("bpfo_ratio", "bpfi_ratio", "bsf_ratio", "ftf_ratio")
NUMBERS = ("speed", "velocity_rms", "acceleration_rms", "peak", "crest_factor", "kurtosis")
FEATURES = pa.schema(
    [
        KEY,
        TIME,
        *(pa.field(name, pa.float64()) for name in NUMBERS),
        pa.field("zone", pa.string()),
        pa.field("orders", pa.list_(pa.float64())),
        pa.field("fault", pa.string()),
        pa.field("fault_frequency", pa.float64()),
        pa.field("fault_ratio", pa.float64()),
        pa.field("fault_harmonics", pa.int64()),
        pa.field("fault_sidebands", pa.int64()),
        *(pa.field(name, pa.float64()) for name in FAULT_RATIOS),
        pa.field("envelope_low", pa.float64()),
        pa.field("envelope_high", pa.float64()),
    ]
)


class Spectrum(Operator):
    """Tell from waveforms of vibration how much a machine vibrates, how bad that is, and which part of a bearing fails.

    Each row with a waveform (a list of samples of an accelerometer) gives a row; where there is one sample a row, so
    many as ``samples`` says of a key do. Use it behind a sensor that sends waveforms or fast samples; put `health`
    behind it to watch a feature, or `alarm` with ``fault is not null``. Where the sensor sends only its RMS there is
    nothing to analyse.

    - ``velocity_rms``: RMS velocity of 10 Hz to 1 kHz in mm/s, integrated in the spectrum, and its ``zone``, A to D,
      by ISO 20816-3 for the ``machine_class``. ``acceleration_rms`` and ``peak`` in m/s², ``crest_factor``,
      ``kurtosis`` (3 for noise, more for impacts), and the RMS acceleration in each of ``bands``.
    - ``orders``: RMS velocity in mm/s around each multiple of ``order_step`` times the shaft's ``speed`` (rpm).
    - ``fault``: outer race, inner race, rolling element or cage of the ``bearing``, or null. Its evidence is the line
      at the fault frequency in the spectrum of the envelope: ``fault_frequency`` in Hz, ``fault_ratio`` of its
      amplitude to that of the noise around it, ``fault_harmonics`` (of the first five, how many are seen) and
      ``fault_sidebands`` (of the two on each side, at the shaft's speed, or the cage's for a rolling element).
      ``bpfo_ratio``, ``bpfi_ratio``, ``bsf_ratio`` (at twice the spin) and ``ftf_ratio`` say how much stands at each
      part's frequency, fault or not. A fault is named where that ratio is ``ratio_min`` and a second harmonic stands
      out (of a cage, a third). The envelope is that of ``envelope_low`` to ``envelope_high`` Hz.
    - With ``spectra``, for the page's spectrum and waterfall: ``spectrum``, the RMS acceleration of each line in m/s²
      (a Hann window), ``spectrum_step`` Hz apart; of the ``bearing``, ``envelope_spectrum``, the lines of the squared
      envelope in (m/s²)², ``envelope_step`` Hz apart, as far as five harmonics of each fault reach, and
      ``fault_frequencies``: those of outer race, inner race, rolling element and cage in Hz, by the geometry.

    The speed must hold within a block, and a block should last for 10 turns of the shaft; longer ones part lines
    better and see weaker faults: for a cage, or a fault frequency near a multiple of the speed, take 40 turns.
    Waveforms that cannot be used go to port ``rejected``, as do samples older than the one before. Where a sample is
    missing, or comes more than ``gap`` after the one before, a new block begins.

    Randall and Antoni, "Rolling element bearing diagnostics - a tutorial", Mechanical Systems and Signal Processing 25
    (2011); Antoni, "Fast computation of the kurtogram", ibid. 21 (2007); ISO 20816-3:2022.

    Examples
    --------
    >>> second = np.arange(4096) / 4096
    >>> shaking = rows({"waveform": [np.sqrt(2) * np.sin(2 * np.pi * 50 * second)]})
    >>> shaken = feed(Spectrum(rate=4096, unit="m/s2", speed=3000), shaking).to_pylist()[0]
    >>> round(shaken["acceleration_rms"], 6), round(shaken["velocity_rms"], 3), shaken["zone"]  # 1000 / (2 pi 50) mm/s
    (1.0, 3.183, 'C')
    """

    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"rate": "rate", "speed": "speed", "bearing": "6205", "bands": {"high": [500, 900]}},
        {"rate": 2000, "unit": "m/s2", "machine_class": "large flexible"},
        {
            "of": "other",
            "rate": 2000,
            "samples": 64,
            "gap": "1h",
            "speed": 15000,
            "bearing": "6203",
            "band": [100, 900],
        },
        {"of": "value", "rate": 1000, "samples": 70, "gap": "1h", "speed": "speed"},
        {"rate": "rate", "speed": "speed", "bearing": "6205", "spectra": 16},
    )
    KEEPS_STATE: ClassVar[Collection[str]] = (
        "unit", "speed", "bearing", "tolerance_percent", "ratio_min", "band", "bands", "orders", "order_step",
        "machine_class", "rate", "gap", "spectra",
    )  # fmt: skip

    of: str = "waveform"
    """The column with the acceleration: lists of samples, or one sample a row."""
    rate: float | str
    """Samples a second of the sensor, in Hz; of lists also the column that says so."""
    samples: int | None = Setting(None, ge=SAMPLES_MIN, le=1 << 20)
    """Where there is one sample a row: how many make a block, such as 4096; powers of two are the fastest."""
    gap: Duration | None = Setting(None, gt=0)
    """How long after the one before a sample may come to belong to the same block; ten sample periods if not set."""
    unit: Literal["g", "m/s2"] = "g"
    """What the acceleration is in."""
    speed: float | str | None = None
    """Speed of the shaft in rpm, or the column that says so."""
    bearing: str | Bearing | None = None
    """The bearing beside the sensor: its geometry, or a name that is known (6203, 6205, NICE, UER204, ZA-2115)."""
    tolerance_percent: float = Setting(2.0, ge=0, le=5)
    """How far from what the geometry says a fault frequency may lie: rolling elements slip, speeds are not exact."""
    ratio_min: float = Setting(6.0, ge=3)
    """From which ratio of its line to the noise around it a fault is named."""
    band: tuple[float, float] | None = None
    """From which to which frequency, in Hz, the envelope is taken; if not set, where spectral kurtosis is highest."""
    bands: Mapping[str, tuple[float, float]] = {}
    """Further columns with the RMS acceleration between two frequencies, as ``{gears: [800, 1600]}``."""
    orders: int = Setting(20, ge=1, le=1000)
    """How many orders are told."""
    order_step: float = Setting(0.5, gt=0)
    """How far the orders lie apart."""
    spectra: int | None = Setting(None, ge=16, le=4096)
    """To have the spectra themselves, too, each of at most so many lines, such as 400: where there are more, the
    highest of those that lie together. If not set, only what they say is told."""
    machine_class: MachineClass = "medium rigid"
    """Size (large: over 300 kW) and support of the machine by ISO 20816-3; the default has the lowest limits."""

    @field_validator("bearing")
    @classmethod
    def _bearing_is_known(cls, bearing: str | Bearing | None) -> str | Bearing | None:
        if isinstance(bearing, str) and bearing not in BEARINGS:
            known = str(UnknownName("bearing", bearing, BEARINGS))
            raise ValueError(f"{known}; of others give rolling_elements, element_diameter and pitch_diameter")
        return bearing

    @model_validator(mode="after")
    def _fits_together(self) -> Spectrum:
        rate = self.rate if isinstance(self.rate, float) else np.inf
        if rate <= 0:
            raise ValueError("rate must be positive: it is how many samples the sensor takes in a second")
        if self.bearing is not None and self.speed is None:
            raise ValueError("bearing needs speed: its fault frequencies are multiples of the shaft's speed")
        for name, (low, high) in [*self.bands.items(), *([("band", self.band)] if self.band else [])]:
            if not 0 <= low < high:
                raise ValueError(f"{name} must go from a lower frequency to a higher one, in Hz")
            if high > rate / 2:
                raise ValueError(f"{name} ends above {rate / 2:g} Hz, half the sample rate: nothing is measured there")
        return self

    # ------------------------------------------------------------------------------------------------------- schemas

    @classmethod
    def sample(cls, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Returns the kit's rows with waveforms of two lengths (some too short, some missing), rate and speed."""
        count = rows.num_rows
        random = np.random.default_rng(5)
        waves = [random.normal(0, 1, (512, 256, 512, 9)[i % 4]).tolist() for i in range(count)]
        columns = {
            "waveform": pa.array(
                [None if i % 13 == 4 else wave for i, wave in enumerate(waves)], pa.list_(pa.float64())
            ),
            "rate": pa.array([2000.0 if i % 17 else None for i in range(count)]),
            "speed": pa.array([float((3000, 0, 6000)[i % 3]) for i in range(count)]),
        }
        for name, column in columns.items():
            rows = rows.append_column(name, column)
        return rows

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        kind, name = require(input, self.of, self.name()).type, self.name()
        if self.samples is not None:
            if _is_list(kind):
                raise SchemaError(
                    f"{name}: '{self.of}' holds whole waveforms; leave out samples, which is for one a row"
                )
            require(input, self.of, name, number=True)
            if isinstance(self.rate, str):
                raise SchemaError(f"{name} needs rate as a number in Hz where there is one sample a row")
        elif not _is_list(kind):
            raise SchemaError(
                f"{name} needs lists in '{self.of}', which is {in_words(kind)}; with one sample a row, set samples"
            )
        elif not (pt.is_integer(kind.value_type) or pt.is_floating(kind.value_type)):
            raise SchemaError(f"{name} needs lists of numbers in column '{self.of}', which is {in_words(kind)}")
        for column in (self.rate, self.speed):
            if isinstance(column, str):
                require(input, column, name, number=True)
        spectra = SPECTRA if self.spectra is not None else ()
        return added(FEATURES, [*spectra, *(pa.field(band, pa.float64()) for band in self.bands)], name)

    def side_schemas(self, input: pa.Schema) -> Mapping[str, pa.Schema]:
        return {REJECTED: REJECTED_SCHEMA}

    # --------------------------------------------------------------------------------------------------------- state

    def fields(self) -> Mapping[str, Field]:
        """Returns what is remembered of each key."""
        return {"missing": Field(np.int64)} if self.samples is None else collected_fields(self.samples)

    def initial(self) -> Columns:
        return Columns(self.fields())

    def dump(self, state: Columns) -> pa.Table:
        return state.dump()

    def load(self, table: pa.Table) -> Columns:
        return Columns.load(self.fields(), table)

    def counters(self, state: Columns) -> Mapping[str, int]:
        return {name: int(state[name][: len(state)].sum()) for name in ("missing", "gaps") if name in state.fields}

    def step(self, state: Columns, batch: Batch) -> tuple[Columns, Sequence[Batch]]:
        rows, schema = batch.rows, promised(self, batch.schema)
        speeds = self._column(rows, self.speed)
        take = self._lists if self.samples is None else self._samples
        blocks, side = take(state, rows, speeds)
        out = self._told(rows, schema, [b for b in blocks if len(b.rows)])
        return state, (*(rejects.until(batch.watermark_us) for rejects in side), batch.with_rows(out))

    @staticmethod
    def _column(rows: pa.RecordBatch, setting: float | str | None) -> Floats:
        if isinstance(setting, str):
            return floats(rows.column(setting))
        return np.full(rows.num_rows, np.nan if setting is None else setting)

    def _lists(self, state: Columns, rows: pa.RecordBatch, speeds: Floats) -> tuple[list[Blocks], list[Batch]]:
        waves, rates = Waveforms.of(rows.column(self.of)), self._column(rows, self.rate)
        np.add.at(state["missing"], state.slots(rows.column("key"))[waves.missing], 1)
        timed = np.isfinite(rates) & (rates > 0)
        long = waves.lengths >= SAMPLES_MIN
        usable = timed & long & waves.whole
        at = np.flatnonzero(~usable & ~waves.missing)
        reasons = [
            "rate_invalid" if not timed[i] else "waveform_not_finite" if long[i] else "waveform_short" for i in at
        ]
        return list(waves.blocks(usable, rates, speeds)), self._rejected(rows, at, reasons)

    def _samples(self, state: Columns, rows: pa.RecordBatch, speeds: Floats) -> tuple[list[Blocks], list[Batch]]:
        rate = float(self.rate)
        gap_us = self.gap if self.gap is not None else round(10e6 / rate)
        slots = state.slots(rows.column("key"))
        blocks, backwards = collect(state, rows, slots, floats(rows.column(self.of)), speeds, rate, gap_us)
        at = np.flatnonzero(backwards)
        return [blocks], self._rejected(rows, at, ["sample_out_of_order"] * len(at))

    def _rejected(self, rows: pa.RecordBatch, at: Ints, reasons: Sequence[str]) -> list[Batch]:
        """Returns the rows at these places as rows of the quarantine."""
        if not len(at):
            return []
        bad = rows.select(["key", "time", self.of]).take(pa.array(at))
        payloads = [json.dumps(value).encode() for value in bad.column(self.of).to_pylist()]
        details = [UNUSABLE[reason] for reason in reasons]
        return [Batch(rejected(bad.column("key"), bad.column("time"), reasons, details, payloads), port=REJECTED)]

    # ------------------------------------------------------------------------------------------------------ features

    def _told(self, rows: pa.RecordBatch, schema: pa.Schema, blocks: Sequence[Blocks]) -> pa.RecordBatch:
        """Returns a row for each block, in the order of the rows that they came with."""
        parts = [part for group in blocks for part in _in_parts(group)]
        if not parts:
            return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
        with np.errstate(over="ignore", invalid="ignore"):  # beyond what a float holds, figures are null
            figures = [self._figures(part) for part in parts]
        columns = {name: np.concatenate([f[name] for f in figures]) for name in figures[0]}
        at = np.concatenate([part.rows for part in parts])
        order = np.argsort(at, kind="stable")
        came = rows.select(["key", "time"]).take(pa.array(at[order]))
        arrays = [
            *came.columns,
            *(_as_array(columns[field.name][order], field) for field in schema if field.name in columns),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _figures(self, part: Blocks) -> dict[str, Any]:
        """Returns the columns of some blocks, but for key and time; NaN, an empty text and -1 stand for null."""
        size, rate = part.samples.shape[1], part.rate_hz
        blocks = waveform.centred(part.samples, GRAVITY if self.unit == "g" else 1.0)
        spectra = np.fft.rfft(blocks, axis=1)
        shape = waveform.shape_of(blocks)
        shaft_hz = np.where(part.speed_rpm > 0, part.speed_rpm, np.nan) / 60
        powers = waveform.line_powers(spectra, size, self._lines(size, rate, shaft_hz))
        velocity = waveform.velocity_rms(powers, size, rate)
        return {
            "speed": part.speed_rpm,
            "velocity_rms": velocity,
            "acceleration_rms": shape.rms,
            "peak": shape.peak,
            "crest_factor": shape.crest,
            "kurtosis": shape.kurtosis,
            "zone": np.where(np.isfinite(velocity), np.array(ZONES)[zone_numbers(velocity, self.machine_class)], ""),
            "orders": waveform.order_rms(powers, rate / size, shaft_hz, self.order_step, self.orders),
            **self._faults(spectra, size, rate, shaft_hz),
            **(self._spectrum(spectra, size, rate) if self.spectra is not None else {}),
            **{name: waveform.band_rms(powers, size, rate, *edges) for name, edges in self.bands.items()},
        }

    def _lines(self, size: int, rate: float, shaft_hz: Floats) -> int:
        """Returns how many lines of the spectrum are needed."""
        turning = shaft_hz[np.isfinite(shaft_hz)]
        highest = max((high for _, high in self.bands.values()), default=0.0)
        if len(turning):
            highest = max(highest, (self.orders + 0.5) * self.order_step * float(turning.max()))
        wanted = max(waveform.velocity_lines(size, rate)[1], int(np.ceil(min(highest, rate) * size / rate)) + 1)
        return min(wanted, size // 2 + 1)

    @cached_property
    def _struck(self) -> Floats | None:
        bearing = BEARINGS[self.bearing] if isinstance(self.bearing, str) else self.bearing
        return None if bearing is None else envelope.struck(bearing.orders())

    def _faults(self, spectra: waveform.Complexes, size: int, rate: float, shaft_hz: Floats) -> dict[str, Any]:
        """Returns the bearing's columns of some blocks."""
        count, resolution = len(spectra), rate / size
        told = np.full((count, len(envelope.FAULTS), 5), np.nan)
        edges = np.full((count, 2), np.nan)
        drawn = Drawn.of(count)
        can_tell = np.isfinite(shaft_hz) & (shaft_hz >= TURNS_MIN * resolution)
        if self._struck is not None and can_tell.any():
            orders, tolerance = self._struck, self.tolerance_percent / 100
            needed = envelope.lines_needed(float(shaft_hz[can_tell].max()), orders, tolerance, resolution)
            for (low, high), here in self._bands_of(spectra, size, rate, can_tell):
                chosen = spectra if here.all() else spectra[here]
                powers = envelope.envelope_powers(chosen, low, high, needed)
                part = np.empty((int(here.sum()), *told.shape[1:]))
                envelope.evidence(powers, resolution, shaft_hz[here], orders, tolerance, part)
                told[here], edges[here] = part, (low * resolution, high * resolution)
                if self.spectra is not None:
                    lines = [envelope.lines_needed(hz, orders, tolerance, resolution) for hz in shaft_hz[here]]
                    amplitudes = envelope.amplitudes(powers, size, high - low)
                    drawn.take(np.flatnonzero(here), amplitudes, lines, resolution, self.spectra)
        if self.spectra is not None and self._struck is not None:
            drawn.frequencies[:] = [hz * self._struck if hz > 0 else None for hz in shaft_hz]
        which = envelope.named(told, self.ratio_min)
        proof = np.where((which >= 0)[:, None], told[np.arange(count), which], np.nan)
        return {
            "fault": np.array([*envelope.FAULTS, ""])[which],
            "fault_frequency": proof[:, envelope.FREQUENCY],
            "fault_ratio": proof[:, envelope.RATIO],
            "fault_harmonics": np.nan_to_num(proof[:, envelope.LINES], nan=-1).astype(np.int64),
            "fault_sidebands": np.nan_to_num(proof[:, envelope.SIDEBANDS], nan=-1).astype(np.int64),
            **{name: told[:, i, envelope.RATIO] for i, name in enumerate(FAULT_RATIOS)},
            "envelope_low": edges[:, 0],
            "envelope_high": edges[:, 1],
            "envelope_spectrum": drawn.lines,
            "envelope_step": drawn.steps,
            "fault_frequencies": drawn.frequencies,
        }

    def _spectrum(self, spectra: waveform.Complexes, size: int, rate: float) -> dict[str, Any]:
        """Returns the columns of the spectrum of some blocks."""
        drawn, count = Drawn.of(len(spectra)), size // 2 + 1
        amplitudes = waveform.line_amplitudes(waveform.line_powers(spectra, size, count))
        assert self.spectra is not None
        drawn.take(np.arange(len(spectra)), amplitudes, [count] * len(spectra), rate / size, self.spectra)
        return {"spectrum": drawn.lines, "spectrum_step": drawn.steps}

    def _bands_of(
        self, spectra: waveform.Complexes, size: int, rate: float, can_tell: np.ndarray[Any, Any]
    ) -> Iterator[tuple[tuple[int, int], np.ndarray[Any, Any]]]:
        """Returns the bands that envelopes are taken of, as lines from and up to, and the blocks of each."""
        if self.band is not None:
            low, high = (min(size // 2, int(np.ceil(edge * size / rate))) for edge in self.band)
            if high - low > 2 * envelope.FLOOR_BINS_MIN:
                yield (low, high), can_tell
            return
        choice = np.where(can_tell, envelope.most_impulsive(spectra, size), -1)
        for number, band in enumerate(envelope.kurtosis_bands(size)):
            if (here := choice == number).any():
                yield band, here


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _in_parts(blocks: Blocks) -> Iterator[Blocks]:
    """Returns the blocks by so many as go through the FFT at once."""
    for begin in range(0, len(blocks.rows), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        yield Blocks(blocks.rows[part], blocks.samples[part], blocks.rate_hz, blocks.speed_rpm[part])


def _as_array(values: np.ndarray[Any, Any], field: pa.Field) -> pa.Array:
    """Returns figures as the column of a field; what is not known is null."""
    if values.dtype == object:
        return pa.array(values.tolist(), field.type)
    if pt.is_list(field.type):
        ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), as_numbers(values.reshape(-1)))
    if pt.is_string(field.type):
        return pa.array(values.tolist(), pa.string(), mask=values == "")
    if pt.is_integer(field.type):
        return pa.array(values, pa.int64(), mask=values < 0)
    return as_numbers(np.where(np.isfinite(values), values, np.nan))
