"""Rolling bearings: how often each of their parts is struck in a turn of the shaft, from their geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, radians

from pydantic import Field, model_validator

from tocsin.settings import Settings


@dataclass(frozen=True, slots=True)
class FaultOrders:
    """Fault frequencies as multiples of the shaft's speed, with the outer race standing still."""

    bpfo: float
    """A rolling element passes a point of the outer race."""
    bpfi: float
    """A rolling element passes a point of the inner race."""
    bsf: float
    """A rolling element turns about itself; a damaged spot of it strikes a race twice in that time."""
    ftf: float
    """The cage turns."""


class Bearing(Settings):
    """The geometry of a rolling bearing. Diameters in any one unit: only their ratio counts."""

    rolling_elements: int = Field(ge=3)
    """How many balls or rollers it has in a row."""
    element_diameter: float = Field(gt=0)
    """Diameter of a ball or roller."""
    pitch_diameter: float = Field(gt=0)
    """Diameter of the circle through the centres of the rolling elements."""
    contact_angle: float = Field(0.0, ge=0, lt=90)
    """Angle at which the elements press on the races, in degrees; 0 for deep groove ball bearings."""

    @model_validator(mode="after")
    def _elements_fit(self) -> Bearing:
        if self.element_diameter >= self.pitch_diameter:
            raise ValueError("element_diameter must be smaller than pitch_diameter, both in the same unit")
        return self

    def orders(self) -> FaultOrders:
        """Returns the fault frequencies as multiples of the shaft's speed, for rolling without slip.

        Randall and Antoni, Rolling element bearing diagnostics - a tutorial, Mechanical Systems and Signal Processing
        25 (2011), equations 1 to 4.

        Examples
        --------
        >>> orders = BEARINGS["6205"].orders()
        >>> round(orders.bpfo, 3), round(orders.bpfi, 3), round(2 * orders.bsf, 2), round(orders.ftf, 3)
        (3.585, 5.415, 4.71, 0.398)
        """
        share = self.element_diameter / self.pitch_diameter * cos(radians(self.contact_angle))
        ftf = (1 - share) / 2
        bsf = self.pitch_diameter / (2 * self.element_diameter) * (1 - share**2)
        return FaultOrders(self.rolling_elements * ftf, self.rolling_elements * (1 + share) / 2, bsf, ftf)


def _bearing(rolling_elements: int, element: float, pitch: float, angle: float = 0.0) -> Bearing:
    return Bearing(
        rolling_elements=rolling_elements, element_diameter=element, pitch_diameter=pitch, contact_angle=angle
    )


BEARINGS: Mapping[str, Bearing] = {
    "6203": _bearing(8, 0.2656, 1.122),
    "6205": _bearing(9, 0.3126, 1.537),
    "NICE": _bearing(8, 0.235, 1.245),
    "UER204": _bearing(8, 7.92, 34.55),
    "ZA-2115": _bearing(16, 0.331, 2.815, 15.17),
}
"""Bearings whose geometry was published with data that many know; in inch, UER204 in millimetres.

6203, 6205: Case Western Reserve University, Bearing Data Center (SKF 6203-2RS JEM at the fan end, 6205-2RS JEM at the
drive end). NICE: Society for Machinery Failure Prevention Technology, Condition Based Maintenance Fault Database.
UER204: Wang et al., XJTU-SY Bearing Datasets (LDK UER204). ZA-2115: University of Cincinnati, IMS Bearing Data
(Rexnord ZA-2115). The same designation of another maker may have other balls: then give the geometry.
"""


__all__ = ["BEARINGS", "Bearing", "FaultOrders"]
