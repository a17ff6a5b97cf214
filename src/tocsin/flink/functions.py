"""The three functions of a job: each wakes what does the work (reader, group, sink) with the state that Flink has.

State is written as bytes once a bundle, when Flink asks for it; in between the live object holds it. This module is
imported in Flink's workers, and nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from tocsin.batch import ipc_stream
from tocsin.engine.keyed import KeyGroup
from tocsin.engine.recovery import Effects
from tocsin.engine.remembered import Change
from tocsin.flink.acting import Acting
from tocsin.flink.elements import ACT, DONE, PUBLISH, ROWS, STAGE, Element
from tocsin.flink.keeping import Keeping
from tocsin.flink.orphan import end_with_taskmanager
from tocsin.flink.outbox import with_outboxes
from tocsin.flink.places import gather_s, marker, open_reader
from tocsin.flink.reading import Reading
from tocsin.flink.shipped import Job
from tocsin.pipeline.yamlfile import load_with_plan


class _Dumped:
    """Bytes that are made when they are written: at the end of a bundle, not after each element."""

    def __init__(self, dump: Callable[[], bytes]) -> None:
        self._dump = dump

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (self._dump(),)


class _Function:
    """What the three have in common."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.live: dict[int, Any] = {}

    def open(self, runtime_context: RuntimeContext) -> None:
        end_with_taskmanager()
        os.chdir(self.job.directory)
        self.plan = with_outboxes(load_with_plan(Path(self.job.file), self.job.settings)[1])
        self.change = Change(self.job.change, tuple(self.job.forget))
        self.state = runtime_context.get_state(ValueStateDescriptor("state", Types.PICKLED_BYTE_ARRAY()))

    def close(self) -> None:
        for one in self.live.values():
            one.close()

    def to(self, kind: str, elements: Iterator[Element]) -> Iterator[Row]:
        """Address elements to readers, groups or sinks."""
        keys = self.job.addresses[kind]
        for one in elements:
            yield Row(keys[one.to], Row(one.kind, one.number, one.data))


class Read(_Function):
    """Polls a source whenever its timer fires, and sets the next."""

    def open(self, runtime_context: RuntimeContext) -> None:
        super().open(runtime_context)
        self.due: dict[int, int] = {}

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        self._set(ctx, 0)
        return iter(())

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        key = ctx.get_current_key()
        if timestamp != self.due.get(key):  # of an attempt before: the seed has set another one, or will
            return
        if key not in self.live:
            self.live[key] = self._opened(self.job.name_of("readers", key))
        reading = self.live[key]
        elements = list(reading.poll())
        self.state.update(_Dumped(reading.dump))
        if not reading.finished:
            self._set(ctx, 0 if reading.behind else round(1_000 * gather_s(self.plan)))
        yield from self.to("groups", iter(elements))

    def _opened(self, name: str) -> Reading | Acting:
        number, groups = self.job.numbers["readers"][name], self.job.groups
        return open_reader(name, number, self.plan, groups, self.job.run, self.change, self.state.value())

    def _set(self, ctx: Any, pause_ms: int) -> None:
        timers = ctx.timer_service()
        at = max(timers.current_processing_time() + pause_ms, self.due.get(ctx.get_current_key(), 0) + 1)
        self.due[ctx.get_current_key()] = at
        timers.register_processing_time_timer(at)


class Step(_Function):
    """Takes the rows of one group of keys through all steps."""

    def open(self, runtime_context: RuntimeContext) -> None:
        super().open(runtime_context)
        self.heard = runtime_context.get_state(ValueStateDescriptor("heard", Types.STRING()))
        self.sinks = self.job.numbers["sinks"]

    def close(self) -> None:
        """A group holds nothing that is to be closed."""

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, number, data = value
        group = self.job.addresses["groups"].index(ctx.get_current_key())
        if kind == DONE:
            yield from self.to("sinks", self._hear(group, number))
            return
        if group not in self.live:
            self.live[group] = KeyGroup(self.plan, self.state.value(), self.change)
        one = self.live[group]
        taken = one.act(bytes(data)) if kind == ACT else one.take(bytes(data))
        self.state.update(_Dumped(self.live[group].dump))
        rows = (Element(self.sinks[id], ROWS, group, ipc_stream(batches)) for id, batches in taken.items() if batches)
        yield from self.to("sinks", rows)

    def _hear(self, group: int, reader: int) -> Iterator[Element]:
        """Once every reader has read all, so has this group."""
        run, heard = json.loads(self.heard.value() or '["", []]')
        heard = sorted({*heard, reader}) if run == self.job.run else [reader]
        self.heard.update(json.dumps([self.job.run, heard]))
        if set(heard) >= set(self.job.numbers["readers"].values()):
            yield from (Element(sink, DONE, group) for sink in self.sinks.values())


class Keep(_Function):
    """Stages and publishes the rows of one sink."""

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        kind, number, data = value
        key = ctx.get_current_key()
        if key not in self.live:
            self.live[key] = self._opened(self.job.name_of("sinks", key))
        keeping: Keeping = self.live[key]
        if kind == ROWS:
            keeping.take(bytes(data))
        elif kind == DONE:
            keeping.hear(number)
        elif kind == STAGE:
            keeping.stage(number)
        elif kind == PUBLISH:
            keeping.publish(number)
        self.state.update(_Dumped(keeping.dump))
        return iter(())

    def _opened(self, name: str) -> Keeping:
        target = next(one for one in self.plan.sinks if one.id == name)
        world = Effects().world(self.plan, "staged", target.id)
        groups, place = range(self.job.groups), marker(self.plan, self.job.run, target.id)
        return Keeping(target, world, groups, place, self.plan.lag_bytes, self.state.value())


FUNCTIONS: Mapping[str, type[_Function]] = {"read": Read, "step": Step, "keep": Keep}
"""By the names under which they are shipped."""
