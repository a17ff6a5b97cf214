"""What a pipeline says of its plant (`assets`) and its page: kept as tables, and told with each message."""

from __future__ import annotations

import pyarrow as pa

from tocsin.engine.recovery import Effects
from tocsin.lake.whole import replace
from tocsin.pipeline.assets import as_tables, with_names
from tocsin.pipeline.links import with_links
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


__all__ = ["keep_assets", "told"]
