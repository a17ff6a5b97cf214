"""Zones of vibration severity, A to D, by ISO 20816-3.

Limits of the RMS velocity of vibration on bearing housings, 10 Hz to 1 kHz, in mm/s: ISO 20816-3:2022, annex A,
tables A.1 (machines of more than 300 kW, or with a shaft height from 315 mm) and A.2 (15 kW to 300 kW, or 160 mm to
315 mm), the same numbers as in ISO 10816-3:2009. A support is rigid if the lowest natural frequency of machine and
support in the direction of measurement lies at least 25 % above the main frequency of excitation, mostly the speed;
else flexible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from tocsin.batch import Floats

MachineClass = Literal["medium rigid", "medium flexible", "large rigid", "large flexible"]
ZONES = ("A", "B", "C", "D")
"""A: as new. B: may run for as long as wanted. C: for a limited time, until repair. D: enough to do damage."""
LIMITS_MM_S: Mapping[str, tuple[float, float, float]] = dict(
    zip(get_args(MachineClass), ((1.4, 2.8, 4.5), (2.3, 4.5, 7.1), (2.3, 4.5, 7.1), (3.5, 7.1, 11.0)), strict=True)
)
"""Where zones B, C and D begin."""


def zone_numbers(rms_mm_s: Floats, machine_class: str) -> npt.NDArray[np.int64]:
    """Returns the zone of each RMS velocity as its place in `ZONES`; what is at a limit is still in the lower zone.

    Examples
    --------
    >>> [ZONES[number] for number in zone_numbers(np.array([1.4, 1.5, 4.0, 9.0]), "medium rigid")]
    ['A', 'B', 'C', 'D']
    """
    return np.searchsorted(LIMITS_MM_S[machine_class], rms_mm_s, side="left")


__all__ = ["LIMITS_MM_S", "ZONES", "MachineClass", "zone_numbers"]
