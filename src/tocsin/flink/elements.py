"""What flows between the operators of a job: an address, and (kind, number, bytes); `Element.java` is its mirror.

A reader hears nothing but that it is to begin, so the kind of that, 0, has no name here.
"""

from __future__ import annotations

from typing import NamedTuple

ROWS = 1
"""Bytes are rows: of a split on their way to a group (`engine.keyed`), or an Arrow stream on its way to a sink."""
DONE = 2
"""A reader has read all there is in this run, or a group has heard so of every reader; the number says which."""
STAGE = 3
"""To a sink: a checkpoint's barrier follows, its number is given."""
PUBLISH = 4
"""To a sink: this checkpoint is complete."""
ACT = 5
"""To a group: bytes are what operators do with alarms, as an Arrow stream."""


class Element(NamedTuple):
    """One element, addressed to the reader, group or sink of this number."""

    to: int
    kind: int
    number: int
    data: bytes = b""
