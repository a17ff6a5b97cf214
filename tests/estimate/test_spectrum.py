"""Step `spectrum`: analytic signals give what mathematics says, and a bearing's fault is named where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_folder import DATA
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tocsin.acquire.simulate import Simulate
from tocsin.batch import END, REJECTED, Floats
from tocsin.contracts import Operator
from tocsin.domain.bearings import BEARINGS
from tocsin.estimate.spectrum import Spectrum
from tocsin.testing import feed, read_from, refusal, rows, stream

RATE = 12_000.0
SIZE = 4096


def analysed(waves: Any, **named: Any) -> list[dict[str, Any]]:
    """Rows of the step for waveforms in m/s², one a row of the array."""
    settings = {"rate": RATE, "unit": "m/s2", **named}
    blocks = np.atleast_2d(waves)
    table = rows({"waveform": pa.FixedSizeListArray.from_arrays(pa.array(blocks.ravel()), blocks.shape[1])})
    told: list[dict[str, Any]] = feed(Spectrum.model_validate(settings), table).to_pylist()
    return told


def sine(amplitude: float, frequency: float, phase: float = 0.0, size: int = SIZE, rate: float = RATE) -> Floats:
    return np.asarray(amplitude * np.sin(2 * np.pi * frequency * np.arange(size) / rate + phase))


def impacts(
    per_second: float, size: int, seed: int = 0, *, load_hz: float = 0.0, noise: float = 0.3, slip: float = 0.005
) -> Floats:
    """Impacts that ring at 3 kHz, in noise; with ``load_hz`` they come in and out of the load so often."""
    random = np.random.default_rng(seed)
    moments = np.arange(int(size / RATE * per_second) + 1)
    moments_s = (moments + random.random() + random.normal(0, slip, len(moments))) / per_second
    wave = random.normal(0, noise, size)
    ring_s = np.arange(100) / RATE
    ring = np.exp(-ring_s / 0.001) * np.sin(2 * np.pi * 3000 * ring_s)
    for at in moments_s:
        k = int(at * RATE)
        strength = (1 + np.cos(2 * np.pi * load_hz * at)) / 2 if load_hz else 1.0
        part = wave[k : k + 100]
        part += 8 * strength * ring[: len(part)]
    return wave


# ----------------------------------------------------------------------------------------------------------- levels


@given(
    line=st.integers(5, 340), amplitude=st.floats(0.01, 1000), phase=st.floats(0, 6.28), offset=st.floats(-50, 50),
    size=st.sampled_from([4096, 4000, 6001]),
)  # fmt: skip
def test_a_sine_gives_exactly_its_rms(line: int, amplitude: float, phase: float, offset: float, size: int) -> None:
    frequency = line * RATE / size
    told = analysed(offset + sine(amplitude, frequency, phase, size))[0]
    rms = amplitude / np.sqrt(2)
    assert told["acceleration_rms"] == pytest.approx(rms, rel=1e-9)
    assert told["kurtosis"] == pytest.approx(1.5, rel=1e-6)
    if 10 <= frequency <= 1000:
        assert told["velocity_rms"] == pytest.approx(1000 * rms / (2 * np.pi * frequency), rel=1e-6)


@given(frequency=st.floats(25, 990), phase=st.floats(0, 6.28))
def test_a_sine_between_two_lines_gives_nearly_its_rms(frequency: float, phase: float) -> None:
    told = analysed(sine(1.0, frequency, phase))[0]
    assert told["velocity_rms"] == pytest.approx(1000 / np.sqrt(2) / (2 * np.pi * frequency), rel=0.02)


@pytest.mark.parametrize("frequency", [1100.0, 3.0])
def test_velocity_is_that_of_10_hz_to_1_khz_alone(frequency: float) -> None:
    size = 12_000
    inside, outside = sine(1.0, 100.0, size=size), sine(5.0, frequency, size=size)
    assert analysed(inside + outside)[0]["velocity_rms"] == pytest.approx(analysed(inside)[0]["velocity_rms"], rel=1e-3)


def test_one_g_is_one_g() -> None:
    wave = sine(np.sqrt(2), 60 * RATE / SIZE)
    assert analysed(wave, unit="g")[0]["acceleration_rms"] == pytest.approx(9.80665)


def test_bands_and_orders_part_the_lines() -> None:
    turning = 1500.0  # rpm: 25 Hz
    wave = sine(2.0, 25.0, size=12_000) + sine(3.0, 75.0, 1.0, size=12_000) + sine(5.0, 3000.0, size=12_000)
    bands = {"low": [10, 200], "gears": [2900, 3100], "none": [200, 900]}
    told = analysed(wave, speed=turning, orders=8, bands=bands)[0]
    rms = np.array([2.0, 3.0]) / np.sqrt(2)
    assert told["low"] == pytest.approx(np.hypot(*rms), rel=1e-9)
    assert (told["gears"], told["none"]) == (pytest.approx(5 / np.sqrt(2)), pytest.approx(0.0, abs=1e-9))
    orders = [0, rms[0] / (2 * np.pi * 0.025), 0, 0, 0, rms[1] / (2 * np.pi * 0.075), 0, 0]
    assert told["orders"] == pytest.approx(orders, abs=1e-6)  # 0.5, 1, 1.5 ... 4
    assert told["fault"] is told["bpfo_ratio"] is told["envelope_low"] is None


@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-100, 100))
@settings(max_examples=20)
def test_scale_and_offset_behave(scale: float, offset: float) -> None:
    wave = impacts(3.5848 * 25, SIZE) + sine(0.5, 25)
    asked: dict[str, Any] = {"speed": 1500.0, "bearing": "6205", "bands": {"high": [2000, 4000]}}
    plain, changed = analysed(wave, **asked)[0], analysed(scale * wave + offset, **asked)[0]
    levels = ("velocity_rms", "acceleration_rms", "peak", "high")
    for name in levels:
        assert changed[name] == pytest.approx(scale * plain[name], rel=1e-6), name
    assert changed["orders"] == pytest.approx([scale * v for v in plain["orders"]], rel=1e-6)
    assert changed["fault"] == plain["fault"] == "outer race"
    for name in set(plain) - {*levels, "orders", "zone", "fault", "time", "key"}:
        assert changed[name] == pytest.approx(plain[name], rel=1e-5), name


@pytest.mark.parametrize(
    ("machine_class", "velocities"),
    [
        ("medium rigid", (1.3, 2.7, 4.4, 4.6)),
        ("medium flexible", (2.2, 4.4, 7.0, 7.2)),
        ("large rigid", (2.2, 4.4, 7.0, 7.2)),
        ("large flexible", (3.4, 7.0, 10.9, 11.1)),
    ],
)
def test_zones_by_machine_class(machine_class: str, velocities: tuple[float, ...]) -> None:
    frequency = 20 * RATE / SIZE
    waves = [sine(np.sqrt(2) * v / 1000 * 2 * np.pi * frequency, frequency) for v in velocities]
    assert [row["zone"] for row in analysed(waves, machine_class=machine_class)] == list("ABCD")


def test_a_dead_sensor_has_a_level_and_no_shape() -> None:
    told = analysed(np.full(SIZE, 3.0), speed=1500.0, bearing="6205")[0]
    assert (told["acceleration_rms"], told["velocity_rms"], told["zone"]) == (0.0, 0.0, "A")
    assert told["kurtosis"] is told["crest_factor"] is told["fault"] is None


def test_what_a_float_cannot_hold_is_null() -> None:
    told = analysed([sine(1e300, 100.0), sine(1.0, 100.0)], speed=1800.0, bearing="6205")
    assert {told[0][name] for name in ("velocity_rms", "zone", "acceleration_rms", "kurtosis", "fault")} == {None}
    assert told[1]["zone"] == "A"


# ----------------------------------------------------------------------------------------------------------- faults


@given(
    bearing=st.sampled_from(["6205", "NICE", "UER204", "ZA-2115"]), speed=st.floats(1200, 3600),
    slip=st.floats(-0.01, 0.01), part=st.sampled_from(["outer race", "inner race", "rolling element"]),
    seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=60)
def test_impacts_name_the_part_that_they_come_from(
    bearing: str, speed: float, slip: float, part: str, seed: int
) -> None:
    orders, shaft_hz = BEARINGS[bearing].orders(), speed / 60
    order = {"outer race": orders.bpfo, "inner race": orders.bpfi, "rolling element": 2 * orders.bsf}[part]
    turns = order * (1 + slip)
    assume(abs(turns - round(turns)) * shaft_hz > 3 * RATE / 16_384)  # else it cannot be told from the shaft's harmonic
    load_hz = {"outer race": 0.0, "inner race": shaft_hz, "rolling element": orders.ftf * shaft_hz}[part]
    wave = impacts(order * shaft_hz * (1 + slip), 16_384, seed, load_hz=load_hz)
    told = analysed(wave, speed=speed, bearing=bearing)[0]
    assert told["fault"] == part
    assert told["fault_frequency"] == pytest.approx(order * shaft_hz * (1 + slip), rel=0.01)
    assert told["fault_ratio"] >= 6
    assert told["fault_harmonics"] >= 2
    if part != "outer race":
        assert told["fault_sidebands"] >= 2


def test_a_cage_is_not_taken_for_the_outer_race() -> None:
    cage_hz = BEARINGS["6205"].orders().ftf * 30
    told = analysed([impacts(cage_hz, 32_768, seed, slip=0.001) for seed in range(5)], speed=1800, bearing="6205")
    assert [row["fault"] for row in told] == ["cage"] * 5
    assert told[0]["fault_frequency"] == pytest.approx(cage_hz, rel=0.01)


def test_noise_names_nothing() -> None:
    random = np.random.default_rng(11)
    for size, count in ((4096, 1500), (16_384, 200)):
        told = analysed(random.normal(0, 1, (count, size)), speed=1797, bearing="6205")
        assert {row["fault"] for row in told} == {None}
        assert max(row["bpfo_ratio"] for row in told) > 2  # they were looked at


def test_how_much_must_stand_out_can_be_set() -> None:
    wave = impacts(3.5848 * 30, SIZE)
    ratio = analysed(wave, speed=1800, bearing="6205")[0]["fault_ratio"]
    for limit, fault in ((0.99 * ratio, "outer race"), (1.01 * ratio, None)):
        told = analysed(wave, speed=1800, bearing="6205", ratio_min=limit)[0]
        assert (told["fault"], told["bpfo_ratio"]) == (fault, pytest.approx(ratio))


def test_what_the_shaft_does_names_nothing() -> None:
    """Noise that comes and goes with each turn, as of a pump, has lines at all harmonics of the shaft."""
    random = np.random.default_rng(12)
    time_s = np.arange(16_384) / RATE
    pulsing = sum((np.cos(2 * np.pi * 30 * n * time_s) for n in range(1, 12)), start=np.ones(16_384) * 2)
    waves = [random.normal(0, 1, 16_384) * np.maximum(pulsing, 0) for _ in range(30)]
    for bearing in ("6203", "6205"):
        assert {row["fault"] for row in analysed(waves, speed=1800, bearing=bearing, tolerance_percent=0.5)} == {None}


def test_what_stands_or_turns_too_little_names_nothing() -> None:
    wave = impacts(3.5848 * 30, SIZE)
    for speed in (0.0, -5.0, 1000.0):  # 1,000 rpm: less than 6 turns
        told = analysed(wave, speed=speed, bearing="6205")[0]
        assert told["fault"] is told["bpfo_ratio"] is None
        assert all((order is None) == (speed <= 0) for order in told["orders"])
    assert analysed(wave, speed=1800.0, bearing="6205")[0]["fault"] == "outer race"
    assert analysed(wave, speed=1e9, bearing="6205")[0]["bpfo_ratio"] is None


def test_the_band_may_be_chosen() -> None:
    wave = impacts(3.5848 * 30, SIZE) + 20 * np.random.default_rng(2).normal(0, 1, SIZE).cumsum() / 50
    asked: dict[str, Any] = {"speed": 1800.0, "bearing": "6205"}
    by_kurtosis, inside = analysed(wave, **asked)[0], analysed(wave, band=[2500, 3500], **asked)[0]
    assert by_kurtosis["envelope_low"] <= 3000 <= by_kurtosis["envelope_high"]
    assert by_kurtosis["fault"] == inside["fault"] == "outer race"
    assert (inside["envelope_low"], inside["envelope_high"]) == (pytest.approx(2500, abs=3), pytest.approx(3500, abs=3))
    assert analysed(wave, band=[4800, 5800], **asked)[0]["bpfo_ratio"] < inside["bpfo_ratio"]


# ---------------------------------------------------------------------------------------------------- samples, rows


def one_a_row(values: Any, **columns: Any) -> pa.RecordBatch:
    return rows({"value": pa.array(values, pa.float64(), from_pandas=True), **columns}, every_s=1 / RATE)


def sampled(size: int = 256, **named: Any) -> Operator:
    return Spectrum.model_validate({"of": "value", "rate": RATE, "samples": size, "unit": "m/s2", **named})


def test_samples_of_each_key_make_the_same_blocks_as_lists() -> None:
    random = np.random.default_rng(3)
    values, speed = random.normal(0, 1, 2 * 1000), np.linspace(1000, 2000, 2 * 1000)
    keys = ["a", "b"] * 1000
    table = one_a_row(values, key=keys, speed=speed)
    told = feed(sampled(speed="speed"), table, chop=[3, 700, 1, 900]).to_pylist()
    assert [row["key"] for row in told] == ["a", "b"] * 3
    for key, first in (("a", 0), ("b", 1)):
        mine = [row for row in told if row["key"] == key]
        blocks = values[first::2][: 3 * 256].reshape(3, 256)
        assert [row["acceleration_rms"] for row in mine] == pytest.approx(blocks.std(axis=1).tolist())
        assert mine[1]["speed"] == pytest.approx(speed[first::2][256:512].mean())
        assert mine[1]["time"] == table.column("time")[2 * 511 + first].as_py()  # its last sample's


def test_gaps_and_missing_samples_make_no_waveform() -> None:
    values = np.ones(1200)
    values[100] = np.nan
    time = np.arange(1200) / RATE + np.where(np.arange(1200) >= 600, 0.5, 0.0)
    table = rows({"value": pa.array(values, from_pandas=True), "time": time.tolist()})
    step = sampled()
    assert feed(step, table).num_rows == (600 - 101) // 256 + 600 // 256
    assert feed(sampled(gap="1s"), table).num_rows == (1200 - 101) // 256
    state = step.initial()
    for batch in stream(table, 50):
        state, _ = step.step(state, batch)
    assert step.counters(state) == {"missing": 1, "gaps": 1}


def test_samples_that_run_backwards_are_set_aside() -> None:
    time = np.arange(300) / RATE
    time[[50, 51]] = time[[51, 50]]
    table = rows({"value": np.arange(300.0), "time": time.tolist()})
    aside = feed(sampled(), table, port=REJECTED).to_pylist()
    assert [(row["reason"], row["payload"]) for row in aside] == [("sample_out_of_order", b"51.0")]
    (block,) = feed(sampled(), table).to_pylist()
    assert block["acceleration_rms"] == pytest.approx(np.delete(np.arange(257.0), 51).std())


def test_waveforms_that_cannot_be_used_are_set_aside_and_the_others_live() -> None:
    good = sine(1.0, 100.0, size=256).tolist()
    waves = [good, [1.0] * 10, None, [*good[:-1], float("nan")], good, [*good[:-1], None], good]
    rates = [RATE, RATE, RATE, RATE, -1, RATE, RATE]
    table = rows({"waveform": pa.array(waves, pa.list_(pa.float64())), "rate": rates})
    step = Spectrum(rate="rate", unit="m/s2")
    assert feed(step, table)["acceleration_rms"].to_pylist() == pytest.approx([np.std(good)] * 2)
    reasons = feed(step, table, port=REJECTED)["reason"].to_pylist()
    assert reasons == ["waveform_short", "waveform_not_finite", "rate_invalid", "waveform_not_finite"]


def test_lists_of_all_kinds_and_lengths() -> None:
    short, long = sine(1.0, 100.0, size=256), sine(2.0, 100.0, size=512)
    mixed = pa.array([short.tolist(), long.tolist(), short.tolist()], pa.large_list(pa.float32()))
    told = feed(Spectrum(rate=RATE, unit="m/s2"), rows({"waveform": mixed}))["acceleration_rms"].to_pylist()
    assert told == pytest.approx([short.std(), long.std(), short.std()], rel=1e-5)
    counts = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(512), pa.int32()), 256)
    assert feed(Spectrum(rate=RATE, unit="m/s2"), rows({"waveform": counts}))["acceleration_rms"].to_pylist() == (
        pytest.approx([np.arange(256).std()] * 2)
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"bearing": "6206", "speed": 1}, "there is no bearing '6206'"),
        ({"bearing": "6205"}, "bearing needs speed"),
        ({"rate": 0}, "rate must be positive"),
        ({"band": [4000, 2000]}, "band must go from a lower frequency"),
        ({"bands": {"high": [5000, 7000]}}, "high ends above 6000 Hz"),
        ({"bearing": {"rolling_elements": 8, "element_diameter": 9, "pitch_diameter": 8}}, "must be smaller"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Spectrum.model_validate({"rate": RATE, **asked})


def test_what_does_not_fit_is_refused_by_name() -> None:
    single, listed = rows({"value": [1.0]}).schema, rows({"value": [[1.0]], "text": [["a"]]}).schema
    said = [
        refusal(lambda: Spectrum(of="value", rate=RATE).output_schema(single)),
        refusal(lambda: Spectrum(of="value", rate=RATE, samples=64).output_schema(listed)),
        refusal(lambda: Spectrum(of="text", rate=RATE).output_schema(listed)),
        refusal(lambda: Spectrum(of="value", rate="value", samples=64).output_schema(single)),
        refusal(lambda: Spectrum(of="value", rate="hz").output_schema(listed)),
        refusal(lambda: Spectrum(of="value", rate=RATE, bands={"zone": (1, 2)}).output_schema(listed)),
    ]
    wanted = ["set samples", "leave out samples", "lists of numbers", "rate as a number", "column 'hz'", "'zone'"]
    assert [text in sentence for text, sentence in zip(wanted, said, strict=True)] == [True] * 6, said


# ------------------------------------------------------------------------------------------------------ whole machines


@pytest.mark.skipif(not (DATA / "cwru").is_dir(), reason=f"needs the bearing data in {DATA / 'cwru'}")
@pytest.mark.parametrize("size", [4096, 15_000])
@pytest.mark.parametrize(
    ("record", "fault"), [("normal", None), ("inner_race_007", "inner race"), ("outer_race_007", "outer race")]
)
def test_real_bearings_are_told_apart(record: str, fault: str | None, size: int) -> None:
    """The second half of each record: limits were chosen on the first."""
    wave = np.load(DATA / "cwru" / f"{record}.npy")[30_000:].astype(np.float64)
    blocks = wave[: len(wave) // size * size].reshape(-1, size)
    told = analysed(blocks, unit="g", speed=1797, bearing="6205")
    assert [row["fault"] for row in told] == [fault] * len(blocks)


@pytest.mark.parametrize("fault", ["outer race", "inner race"])
def test_a_growing_fault_is_named_before_the_rms_leaves_zone_b(fault: str) -> None:
    growing = {"name": fault.replace(" ", "_"), "machine": "m1", "start": "2m", "growth": "20m"}
    source = Simulate.model_validate(
        {
            "machines": {"m1": "motor", "m2": "motor"}, "rate": 0, "start": "2026-01-01T08:00:00Z", "duration": "20m",
            "every": "5s", "stops_per_day": 0, "faults": [growing], "waveforms": {},
        }
    )  # fmt: skip
    batch, _ = read_from(source).poll(10**6, 0)
    assert batch.watermark_us == END
    told = feed(Spectrum(rate="rate", speed="speed", bearing="6205"), batch.rows).to_pylist()
    assert {row["fault"] for row in told if row["key"] == "m2"} == {None}
    mine = [row for row in told if row["key"] == "m1"]
    assert {row["fault"] for row in mine[:24]} == {None}
    first = next(i for i, row in enumerate(mine) if row["fault"])
    left = next(i for i, row in enumerate(mine) if row["zone"] in "CD")
    assert first + 24 < left, "named two minutes before the level says so"
    assert {row["fault"] for row in mine[left:]} == {fault}
