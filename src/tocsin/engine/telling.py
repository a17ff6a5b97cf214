"""What a pipeline says of its plant (`assets`) and its page: kept as tables, and told with each message."""

from __future__ import annotations

import json
from urllib.parse import quote

import pyarrow as pa

from tocsin.domain.alarms import CASE_EVENTS
from tocsin.engine.recovery import Effects
from tocsin.lake.whole import replace
from tocsin.pipeline.assets import as_tables, with_names
from tocsin.pipeline.links import LINK, can_be_linked
from tocsin.pipeline.plan import Plan


def keep_assets(plan: Plan, effects: Effects) -> None:
    """Keep it beside the other tables, for SQL and for others who read there; nothing is written if it is the same."""
    if plan.machines or plan.signals:
        for name, rows in as_tables(plan.machines, plan.signals).items():
            replace(plan.folder.absolute() / name, rows, effects.disk, effects.clock)


def told(plan: Plan, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the rows as a channel gets them: with what people call their machines and signals, the units, and links.

    A link leads from an alarm to its story on the page, where the pipeline says where browsers see that.
    """
    named = with_names(rows, plan.machines, plan.signals) if plan.machines or plan.signals else rows
    return with_links(named, plan.page_url) if plan.page_url else named


def with_links(rows: pa.RecordBatch, url: str) -> pa.RecordBatch:
    """Returns alarm rows with a link to the story of each: of a case to that of its first alarm; others as they are.

    ``url`` is where browsers see the page. A loop over rows, some microseconds each: for messages, which are few.

    Examples
    --------
    >>> row = {"id": "3f2a", "rule": "hot", "event": "raised", "ring": True}
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


__all__ = ["keep_assets", "told", "with_links"]
