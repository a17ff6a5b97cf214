"""Links into the page: from the message of an alarm to its story."""

from __future__ import annotations

import json
from urllib.parse import quote

import pyarrow as pa

from tocsin.domain.alarm_rows import KNOWN_BY
from tocsin.domain.alarms import CASE_EVENTS

LINK = pa.field("link", pa.string())
"""The column that channels get beside those of an alarm row; null where there is no alarm to show."""


def can_be_linked(schema: pa.Schema) -> bool:
    """Returns whether rows are those of alarms, and have no column ``link`` of their own."""
    return set(schema.names) >= KNOWN_BY and LINK.name not in schema.names


def with_links(rows: pa.RecordBatch, url: str) -> pa.RecordBatch:
    """Returns alarm rows with a link to the story of each: of a case to that of its first alarm; others as they are.

    ``url`` is where browsers see the page. A loop over rows, some microseconds each: for messages, which are few.

    Examples
    --------
    >>> row = dict.fromkeys(KNOWN_BY, "") | {"id": "3f2a", "event": "raised"}
    >>> with_links(pa.RecordBatch.from_pylist([row]), "https://plant.example")["link"].to_pylist()
    ['https://plant.example/#alarm=3f2a']
    """
    if not can_be_linked(rows.schema):
        return rows
    evidence = rows["evidence"] if "evidence" in rows.schema.names else pa.nulls(len(rows), pa.string())
    columns = (column.to_pylist() for column in (rows["id"], rows["event"], evidence))
    ids = [
        _first_of_case(text) if event in CASE_EVENTS else str(id or "")
        for id, event, text in zip(*columns, strict=True)
    ]
    links = [f"{url}/#alarm={quote(id, safe='')}" if id else None for id in ids]
    return rows.append_column(LINK, pa.array(links, pa.string()))


def _first_of_case(evidence: str | None) -> str:
    return str(json.loads(evidence or "{}").get("first_out") or "")


__all__ = ["LINK", "can_be_linked", "with_links"]
