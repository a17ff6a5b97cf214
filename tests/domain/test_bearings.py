"""Fault frequencies of bearings, against those that were published with their geometry."""

from __future__ import annotations

import pytest

from tocsin.domain.bearings import BEARINGS, Bearing

PUBLISHED = {
    "6205": (3.5848, 5.4152, 4.7135, 0.39828),
    "6203": (3.0530, 4.9469, 3.9874, 0.3817),
}
"""Outer race, inner race, rolling element, cage, as multiples of the speed: Case Western Reserve University."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_fault_frequencies_are_those_published(name: str) -> None:
    orders = BEARINGS[name].orders()
    assert (orders.bpfo, orders.bpfi, 2 * orders.bsf, orders.ftf) == pytest.approx(PUBLISHED[name], rel=5e-4)


def test_what_holds_for_every_bearing() -> None:
    for bearing in BEARINGS.values():
        orders = bearing.orders()
        assert orders.bpfo + orders.bpfi == pytest.approx(bearing.rolling_elements)
        assert orders.bpfo == pytest.approx(bearing.rolling_elements * orders.ftf)
        flat = bearing.model_copy(update={"contact_angle": 0.0}).orders()
        assert orders.ftf >= flat.ftf
        assert orders.bpfi <= flat.bpfi


def test_only_the_ratio_of_the_diameters_counts() -> None:
    inch = BEARINGS["6205"]
    millimetres = Bearing(
        rolling_elements=9, element_diameter=25.4 * inch.element_diameter, pitch_diameter=25.4 * inch.pitch_diameter
    )
    assert millimetres.orders().bpfo == pytest.approx(inch.orders().bpfo)
