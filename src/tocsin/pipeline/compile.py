"""From a pipeline to its plan: every part built, every schema worked out, before any data flows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from tocsin.batch import LATE, NEW, OUT, REJECTED, Apart, in_words, is_undecoded
from tocsin.contracts import Channel, Operator, Sink
from tocsin.errors import ConfigError, SchemaError, UnknownName
from tocsin.pipeline.assets import MACHINES_TABLE, SIGNALS_TABLE, lacking
from tocsin.pipeline.links import LINK, can_be_linked
from tocsin.pipeline.parts import build, delta_table
from tocsin.pipeline.plan import LATE_COLUMN, Plan, Port, SinkNode, SourceNode, Step

if TYPE_CHECKING:
    from tocsin.pipeline.model import Input, Pipeline, Stream

WRITTEN = ("zone", "format", "unit")
"""The settings that say how a time is written, of a column and under ``time:`` alike."""


class Compiler:
    """Goes through a pipeline in the order in which rows pass, and works out the schema at every place."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.sources: list[SourceNode] = []
        self.steps: list[Step] = []
        self._numbers: dict[str, int] = {}
        """Where each step stands among them, by its id."""
        self.sinks: list[SinkNode] = []
        self._apart: dict[str, Apart | None] = {}
        """By source or step: how far keys may be apart in what leaves it, where each has a time of its own."""
        self._may_be_late: set[str] = set()
        """Sources whose rows say when they happened: by arrival none is late."""
        self.ports: dict[str, dict[str, list[tuple[Port, pa.Schema]]]] = {}
        """By source or stream, by port: where its rows come out, and their schema."""

    def plan(self) -> Plan:
        pipeline = self.pipeline
        for name, described in pipeline.sources.items():
            with _at(f"sources.{name}"):
                self._origin(name, described)
        for name in self._order():
            self._stream(name, pipeline.streams[name])
        self._set_aside()
        self._require_one_server()
        with _at("assets.machines"):
            machines = pipeline.assets.by_machine()
        return Plan(
            name=pipeline.name,
            sources=tuple(self.sources),
            steps=tuple(self.steps),
            sinks=tuple(self.sinks),
            streams={
                name: tuple(port for port, _ in self.ports[name][OUT])
                for name in (*pipeline.sources, *pipeline.streams)
            },
            folder=pipeline.folder,
            state_folder=pipeline.folder / ".state",
            checkpoint_us=pipeline.checkpoint,
            memory_bytes=pipeline.memory,
            lag_bytes=pipeline.lag,
            workers=pipeline.workers,
            machines=machines,
            signals=pipeline.assets.signals,
            page_url=pipeline.page.url,
            zone=pipeline.zone,
        )

    def _origin(self, name: str, input: Input) -> None:
        schema = input.source.output_schema()
        chain: list[Operator] = []
        if is_undecoded(schema):
            if input.decode is None:
                raise ConfigError(f"{input.source.name()} gives undecoded records; add decode, such as decode: json")
            chain.append(input.decode)
            schema = input.decode.output_schema(schema)
        elif input.decode is not None:
            raise ConfigError(f"{input.source.name()} gives decoded rows; remove decode")
        for i, step in enumerate(input.steps):
            with _at(f"sources.{name}.steps.{i}"):
                chain.append(step)
                schema = step.output_schema(schema)
        for place, operator in (("key", input.key), ("time", input.time)):
            if operator is None:
                if place in schema.names:
                    continue
                if place == "key" or "received" not in schema.names:
                    says = {"key": "which machine a row is of", "time": "when a row happened"}[place]
                    with _at(f"sources.{name}.{place}"):
                        raise SchemaError(
                            f"this is needed: the column that says {says}; there are [{', '.join(schema.names)}]"
                        )
                operator = _by_arrival()
            chain.append(operator)
            with _at(f"sources.{name}.{place}"):
                if place == "time":
                    _require_times_unread(input)
                schema = operator.output_schema(schema)
        for name_of_step, settings in () if input.decode is None else input.decode.behind().items():
            told = build("operator", {name_of_step: settings})
            assert isinstance(told, Operator)
            chain.append(told)
        ports = {OUT: schema}
        before = input.source.output_schema()
        for operator in chain:
            ports |= operator.side_schemas(before)
            before = operator.output_schema(before)
        self.sources.append(SourceNode(name, input.source, tuple(chain), ports, input.idle_timeout))
        self.ports[name] = {port: [((name, port), s)] for port, s in ports.items()}
        self._apart[name] = next((a for operator in chain if (a := operator.apart(None)) is not None), None)
        if any(operator.tells_late() for operator in chain):
            self._may_be_late.add(name)

    def _order(self) -> Iterator[str]:
        """Stream names, each after those it comes from."""
        streams, done = self.pipeline.streams, set(self.pipeline.sources)
        path: list[str] = []
        if clash := done & set(streams):
            raise ConfigError(f"'{min(clash)}' names a source and a stream; rename one")

        def visit(name: str) -> Iterator[str]:
            if name in done:
                return
            if name not in streams:
                raise UnknownName("source or stream", name, [*self.pipeline.sources, *streams])
            if name in path:
                raise ConfigError(f"streams go in a circle: {' -> '.join([*path, name])}")
            path.append(name)
            for reference in streams[name].from_:
                with _at(f"streams.{name}.from"):
                    yield from visit(reference.partition(".")[0])
            path.pop()
            done.add(name)
            yield name

        for name in streams:
            yield from visit(name)

    def _stream(self, name: str, stream: Stream) -> None:
        place = f"streams.{name}"
        with _at(f"{place}.from"):
            inputs, schema = self._united(stream.from_)
        ports: dict[str, list[tuple[Port, pa.Schema]]] = {}
        for i, operator in enumerate(stream.steps):
            step = f"{name}.{i}.{operator.name()}"
            if operator.takes_late():
                inputs = (*inputs, *self._late_for(inputs))
            with _at(f"{place}.steps.{i}"):
                out, side = operator.output_schema(schema), operator.side_schemas(schema)
                apart = self._apart_of(inputs)
                self._apart[step] = operator.apart(apart)
            self._numbers[step] = len(self.steps)
            self.steps.append(Step(step, operator, inputs, schema, {OUT: out, **side}, apart=apart))
            for port, side_schema in side.items():
                ports.setdefault(port, []).append(((step, port), side_schema))
            inputs, schema = ((step, OUT),), out
        self.ports[name] = {OUT: [(port, schema) for port in inputs], **ports}
        for i, part in enumerate(stream.sinks):
            is_archive = isinstance(part, Sink) and LATE_COLUMN.name not in schema.names
            late = self._late_for(inputs) if is_archive else ()
            marks = is_archive and self._takes_both((*inputs, *late))
            kept = schema.append(LATE_COLUMN) if marks else schema
            with _at(f"{place}.sinks.{i}"):
                part.accepts(self._told(kept) if isinstance(part, Channel) else kept)
                self._refuse_taken(part)
            self.sinks.append(SinkNode(f"{name}.{i}.{part.name()}", (*inputs, *late), part, kept, marks))

    def _told(self, kept: pa.Schema) -> pa.Schema:
        """Returns what reaches a channel: beside the rows' own columns what `engine.telling` adds to them."""
        named = pa.schema([*kept, *lacking(kept)]) if self.pipeline.assets.are_there() else kept
        return named.append(LINK) if self.pipeline.page.url and can_be_linked(kept) else named

    def _refuse_taken(self, part: Sink | Channel) -> None:
        """The tables of the assets are nobody else's."""
        if not isinstance(part, Sink) or part.name() != "delta" or not self.pipeline.assets.are_there():
            return
        if (table := part.place().get("path")) in (MACHINES_TABLE, SIGNALS_TABLE):
            raise ConfigError(f"table '{table}' is where assets: are kept; call this one otherwise")

    @staticmethod
    def _takes_both(inputs: Sequence[Port]) -> bool:
        """Whether there are rows and the late ones of the same source or step, as with ``[plant, plant.late]``."""
        return any((id, OUT) in inputs for id, port in inputs if port == LATE)

    def _apart_of(self, inputs: Sequence[Port]) -> Apart | None:
        """How far keys may be apart in several inputs together."""
        parts = [apart for id, _ in inputs if (apart := self._apart[id]) is not None]
        if not parts:
            return None
        return Apart(max(apart.lateness_us for apart in parts), max(apart.most_us for apart in parts))

    def _late_for(self, inputs: Sequence[Port]) -> tuple[Port, ...]:
        """The late rows beside others, where nothing on the way here goes by time."""
        ordinary = [port for port in inputs if port[1] != LATE]
        if any(not self._has_late(port) for port in ordinary):
            return ()
        return tuple(port for port in map(self._late, ordinary) if port not in inputs)

    def _has_late(self, port: Port) -> bool:
        """Whether rows of a port have late ones that could stand beside them."""
        id, name = port
        if name != OUT:
            return False
        if id in self.pipeline.sources:
            return id in self._may_be_late
        step = self.steps[self._numbers[id]]
        if step.operator.tells_late():
            return True
        return step.operator.TIMELESS and all(self._has_late(before) for before in step.inputs)

    def _late(self, port: Port) -> Port:
        """Returns the port of the late rows; the steps on the way to it take them along from now on."""
        id, _ = port
        if id not in self.pipeline.sources:
            step = self.steps[self._numbers[id]]
            if not step.operator.tells_late() and not step.late:
                late = tuple(map(self._late, step.inputs))
                schemas = {**step.schemas, LATE: step.schemas[OUT]}
                self.steps[self._numbers[id]] = replace(step, late=late, schemas=schemas)
        return id, LATE

    def _united(self, references: Sequence[str]) -> tuple[tuple[Port, ...], pa.Schema]:
        if not references:
            if len(self.pipeline.sources) > 1:
                raise ConfigError(f"several sources: say which, one or more of {', '.join(self.pipeline.sources)}")
            references = tuple(self.pipeline.sources)
        outlets: list[tuple[Port, pa.Schema]] = []
        for reference in references:
            name, _, port = reference.partition(".")
            ports = self.ports[name]
            if (port or OUT) not in ports:
                raise UnknownName(f"port of {name}", port, ports)
            outlets += ports[port or OUT]
        united = outlets[0][1]
        for _, schema in outlets[1:]:
            if schema.names != united.names or schema.types != united.types:
                raise SchemaError(
                    f"streams of different columns cannot be united: [{_short(united)}] and [{_short(schema)}]; "
                    "select and cast the columns that they share"
                )
            united = pa.schema([a.with_nullable(a.nullable or b.nullable) for a, b in zip(united, schema, strict=True)])
        return tuple(port for port, _ in outlets), united

    def _require_one_server(self) -> None:
        """Sinks of one load write in one transaction, so they are of one kind and one server."""
        places: dict[str, tuple[str, object]] = {}
        for target in self.sinks:
            if not isinstance(target.part, Sink) or (name := target.part.joins()) is None:
                continue
            place = (target.id, [target.part.name(), target.part.place().get("server")])
            first = places.setdefault(name, place)
            if first[1] != place[1]:
                raise ConfigError(
                    f"load '{name}' has sinks of two servers, '{first[0]}' and '{target.id}', which share no "
                    "transaction; give them loads of their own"
                )

    def _set_aside(self) -> None:
        """Rows that nobody asked for but that must not be lost: rejected ones and late ones."""
        taken = {port for step in self.steps for port in (*step.inputs, *step.late)}
        taken |= {port for target in self.sinks for port in target.inputs}
        free = [
            (port, schema)
            for ports in self.ports.values()
            for outlets in ports.values()
            for port, schema in outlets
            if port not in taken
        ]
        if rejected := [(port, schema) for port, schema in free if port[1] == REJECTED]:
            ports = tuple(port for port, _ in rejected)
            with _at("quarantine"):
                self.pipeline.quarantine.accepts(rejected[0][1])
            self.sinks.append(SinkNode("quarantine", ports, self.pipeline.quarantine, rejected[0][1]))
        if new := [(port, schema) for port, schema in free if port[1] == NEW]:
            self.sinks.append(
                SinkNode("new_signals", tuple(port for port, _ in new), delta_table("new_signals"), new[0][1])
            )
        for port, schema in free:
            if port[1] == LATE:
                table = f"late_{re.sub('[^a-z0-9]+', '_', port[0])}"
                self.sinks.append(SinkNode(table, (port,), delta_table(table), schema))


def _require_times_unread(input: Input) -> None:
    """Raises ConfigError if ``time`` says how a column is written that the decoder has read as times before."""
    if input.decode is None or input.time is None or input.steps:
        return
    columns = input.decode.model_dump().get("columns", {})
    told = input.time.model_dump()
    for column in told["column"] or ():
        decoded = columns.get(column, {})
        if decoded.get("type") != "timestamp":
            continue
        if late := {name: told[name] for name in WRITTEN if told[name] and not decoded[name]}:
            there = ", ".join(f"{name}: {value!r}" for name, value in late.items())
            raise ConfigError(
                f"column '{column}' is a timestamp where it is decoded, before this tells its {' and '.join(late)}; "
                f"say it there, as {column}: {{type: timestamp, {there}}}, or leave the column as text or a number"
            )


def _by_arrival() -> Operator:
    part = build("operator", "event_time")
    assert isinstance(part, Operator)
    return part


def _short(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {in_words(field.type)}" for field in schema)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Trouble with the configuration inside is told with its place (the innermost one)."""
    try:
        yield
    except Misplaced:
        raise
    except ConfigError as error:
        raise Misplaced(place, error) from error


class Misplaced(ConfigError):
    """Trouble at a place in the pipeline, as ``streams.hot.steps.0``."""

    def __init__(self, place: str, error: ConfigError) -> None:
        super().__init__(f"{place}: {error}")
        self.place = place
        self.sentence = str(error)
