"""The spectra that step `spectrum` tells on request: lines as mathematics says, and no more than asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tocsin.domain.bearings import BEARINGS
from tocsin.estimate._spectra import SPECTRA
from tocsin.estimate.spectrum import Spectrum
from tocsin.testing import feed, rows

RATE, SIZE = 12_000.0, 4096
LINE_HZ = RATE / SIZE
SECONDS = np.arange(SIZE) / RATE


def told(wave: Any, **named: Any) -> dict[str, Any]:
    settings = {"rate": RATE, "unit": "m/s2", **named}
    row: dict[str, Any] = feed(Spectrum.model_validate(settings), rows({"waveform": [wave.tolist()]})).to_pylist()[0]
    return row


@pytest.mark.parametrize("line", [7, 40, 2000])
def test_a_sine_has_its_rms_in_its_line(line: int) -> None:
    row = told(3.0 * np.sin(2 * np.pi * line * LINE_HZ * SECONDS), spectra=4096)
    spectrum = np.array(row["spectrum"])
    assert (len(spectrum), row["spectrum_step"]) == (SIZE // 2 + 1, LINE_HZ)
    assert spectrum[line] == pytest.approx(3 / np.sqrt(2), rel=1e-5)
    spectrum[line - 1 : line + 2] = 0
    assert spectrum.max() < 1e-6
    assert row["envelope_spectrum"] is None, "there is no bearing to look at"
    assert row["fault_frequencies"] is None


def test_a_modulation_has_twice_its_depth_times_the_carriers_power_in_the_envelopes_spectrum() -> None:
    carrier = np.sin(2 * np.pi * 1000 * LINE_HZ * SECONDS)
    row = told(
        2 * (1 + 0.5 * np.cos(2 * np.pi * 30 * LINE_HZ * SECONDS)) * carrier, spectra=4096, speed=1800, bearing="6205"
    )
    envelope = row["envelope_spectrum"]
    assert row["envelope_step"] == LINE_HZ
    assert envelope[30] == pytest.approx(2 * 0.5 * 2**2, rel=1e-5)
    assert np.argmax(envelope) == 30
    orders = BEARINGS["6205"].orders()
    expected = [30 * order for order in (orders.bpfo, orders.bpfi, 2 * orders.bsf, orders.ftf)]
    assert row["fault_frequencies"] == pytest.approx(expected)
    assert len(envelope) * LINE_HZ > 5 * max(expected), "five harmonics of each fault are in it"


def test_no_more_lines_than_asked_for_and_the_highest_of_those_that_lie_together() -> None:
    wave = np.random.default_rng(1).normal(size=SIZE) + 9 * np.sin(2 * np.pi * 41 * LINE_HZ * SECONDS)
    whole, few = (told(wave, spectra=n, speed=1800, bearing="6205") for n in (4096, 100))
    for name, step in (("spectrum", "spectrum_step"), ("envelope_spectrum", "envelope_step")):
        together = round(few[step] / whole[step])
        assert len(few[name]) <= 100 < len(whole[name])
        expected = [max(whole[name][i : i + together]) for i in range(0, len(whole[name]), together)]
        assert few[name] == expected


def test_without_the_setting_a_row_has_none_and_a_standing_machine_no_fault_frequencies() -> None:
    wave = np.random.default_rng(2).normal(size=SIZE)
    assert not {field.name for field in SPECTRA} & set(told(wave, speed=1800, bearing="6205"))
    standing = told(wave, speed=0, bearing="6205", spectra=64)
    assert (standing["fault_frequencies"], standing["envelope_spectrum"]) == (None, None)
    assert len(standing["spectrum"]) <= 64


def test_the_columns_are_those_that_the_page_looks_for() -> None:
    schema = Spectrum(rate=RATE, spectra=64).output_schema(
        pa.schema([("key", pa.string()), ("time", pa.timestamp("us", "UTC")), ("waveform", pa.list_(pa.float32()))])
    )
    assert [schema.field(field.name) for field in SPECTRA] == list(SPECTRA)
