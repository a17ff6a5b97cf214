"""Which messages have a link into the page, to the story of the alarm that they tell of."""

from __future__ import annotations

import pyarrow as pa

LINK = pa.field("link", pa.string())
"""The column that channels get beside those of an alarm row; null where there is no alarm to show."""
_ALARM = frozenset({"id", "rule", "event", "ring"})
"""What rows of alarms have, also where others of their columns were left out."""


def can_be_linked(schema: pa.Schema) -> bool:
    """Returns whether rows are those of alarms, and have no column ``link`` of their own."""
    return set(schema.names) >= _ALARM and LINK.name not in schema.names


__all__ = ["LINK", "can_be_linked"]
