"""The small process beside a job that delivers what the outboxes of its channels hold."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from tocsin.acquire.delta import Delta as Outbox
from tocsin.batch import OUT
from tocsin.contracts import Channel
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.recovery import Effects
from tocsin.errors import AlreadyRunning, TocsinError
from tocsin.flink.outbox import outbox_of
from tocsin.pipeline.plan import Plan, SinkNode, SourceNode

logger = logging.getLogger(__name__)


def delivery(plan: Plan, *, follow: bool) -> Plan:
    """Returns the plan of whoever delivers: from each outbox to its channel, what there is or for ever."""
    sources: list[SourceNode] = []
    sinks: list[SinkNode] = []
    for target in plan.sinks:
        if isinstance(target.part, Channel):
            world = Effects().world(plan, "staged", target.id)
            outbox = outbox_of(target)
            outbox.open(world, target.schema).close()  # it may not be there yet
            source = Outbox(path=str(world.inside(outbox.path)), follow=follow)
            origin = SourceNode(f"outbox of {target.id}", source, (), {OUT: source.output_schema()}, 0)
            sources.append(origin)
            sinks.append(replace(target, inputs=((origin.id, OUT),)))
    return replace(
        plan, sources=tuple(sources), steps=(), sinks=tuple(sinks), streams={},
        state_folder=plan.state_folder / "flink" / "delivery",
    )  # fmt: skip


class Delivering:
    """Delivers beside a job, in a thread; in a plan without channels it does nothing."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._runner: EmbeddedRunner | None = None
        self._has_channels = any(isinstance(target.part, Channel) for target in plan.sinks)
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        if self._has_channels:
            self._runner = EmbeddedRunner(delivery(self._plan, follow=True))
            self._thread.start()

    def stop(self, *, whole: bool) -> None:
        """Stop; what is in the outboxes of a job that has come to its end is delivered before.

        Raises
        ------
        Undelivered
            A channel is away: its messages wait for the next start.
        """
        if self._runner is None:
            return
        self._runner.stop()
        self._thread.join()
        if whole:
            EmbeddedRunner(delivery(self._plan, follow=False)).run()

    def _run(self) -> None:
        assert self._runner is not None
        try:
            self._runner.run()
        except AlreadyRunning:
            logger.info("another process delivers for '%s'", self._plan.name)
        except TocsinError as error:
            logger.error("nothing is delivered for '%s': %s", self._plan.name, error)
