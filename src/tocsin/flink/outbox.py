"""Channels of a job: what is for them goes to a table, their outbox; `delivering` takes it from there.

A cluster has no one place from which a message could leave once. So a channel's rows are kept like those of any sink,
exactly once, and an embedded engine reads the table: its own outbox then delivers them, at least once, under ids that
stay the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tocsin.contracts import Channel
from tocsin.output.delta import Delta
from tocsin.pipeline.plan import Plan, SinkNode

RETENTION_US = 30 * 86_400_000_000
"""So long whoever delivers may be away."""


def with_outboxes(plan: Plan) -> Plan:
    """Returns the plan with a table in the place of each channel."""
    return replace(plan, sinks=tuple(map(_kept, plan.sinks)))


def outbox_of(target: SinkNode) -> Delta:
    """Returns the table that stands in the place of a channel."""
    return Delta(path=str(Path(".state", "flink", "outbox", target.id)), retention=RETENTION_US)


def _kept(target: SinkNode) -> SinkNode:
    return replace(target, part=outbox_of(target)) if isinstance(target.part, Channel) else target
