"""What the page is told of the pipeline itself: its parts, how each of them fares, and its last rows."""

from __future__ import annotations

from typing import Literal

import msgspec

from tocsin.engine.wire import LastRows

Kind = Literal["source", "step", "sink", "channel"]


class Setting(msgspec.Struct):
    """A setting of a component, as people write it; secrets are left out (`serve.outline`)."""

    name: str
    value: str
    is_default: bool
    what: str = ""
    """What it is for."""


class ComponentOutline(msgspec.Struct):
    """What a part of the pipeline is made of: a source, a decoder, a step, a sink."""

    name: str
    what: str
    """Its documentation, as `tocsin components NAME` prints it."""
    settings: list[Setting]
    """Those that differ from their default first."""
    written_in: list[tuple[str, str]] = []
    """The file and name of each class that the settings stand in."""


class ComponentDetails(msgspec.Struct):
    """The same as browsers are told it, with what each setting is for."""

    name: str
    what: str
    settings: list[Setting]


class Inlet(msgspec.Struct):
    """Where rows come from."""

    part: str
    port: str
    """``out``, ``late``, ``rejected`` ..."""


class PartOutline(msgspec.Struct):
    """A part of the pipeline, which never changes while it runs."""

    id: str
    kind: Kind
    name: str
    """Of its component."""
    stream: str
    """Whose step or sink it is; empty for a source, and for what is set aside."""
    inputs: list[Inlet]
    components: list[ComponentOutline]
    """One; of a source also its decoder and what gives its rows key and time."""
    load: str = ""
    """The sinks that are published together with this one lag under this name."""
    table: str = ""
    """The table in the lake that a sink writes, if it does."""


class Outline(msgspec.Struct):
    """All parts of a pipeline, each behind those that it reads from."""

    parts: list[PartOutline] = []


class PartState(msgspec.Struct):
    """How a part fares."""

    id: str
    kind: Kind
    name: str
    stream: str
    inputs: list[Inlet]
    state: Literal["well", "odd", "bad", "ended", "unknown"]
    """``odd``: rows were set aside within the last minute; ``bad``: it needs somebody; ``unknown``: nobody counts."""
    said: str
    """Why it is so, in words for people; empty if all is well."""
    rows: float | None
    """What a source has read, what has left a step, what has reached a sink; None if that is not known here."""
    rows_per_s: float | None
    lag_s: float | None
    """How far the watermark of what leaves a source or step is behind the clock."""
    late: int
    rejected: int
    rung: int
    """How often an alarm of the step rang."""


class PipelineState(msgspec.Struct):
    """What `/api/pipeline` answers."""

    parts: list[PartState]
    note: str = ""
    """What cannot be seen here, in words for people."""


class PartDetails(msgspec.Struct):
    """What `/api/pipeline/part` answers: settings and documentation of a part."""

    id: str
    kind: Kind
    stream: str
    components: list[ComponentDetails]


class SetAside(msgspec.Struct):
    """Rows that a part has set aside for one reason."""

    reason: str
    rows: int
    detail: str
    """Of the first of them."""


class PartRows(msgspec.Struct):
    """What `/api/pipeline/rows` answers: what changes while somebody looks at a part."""

    id: str
    set_aside: list[SetAside]
    noticed: dict[str, int]
    """What it counts beside rows (connects, duplicates ...)."""
    ports: list[LastRows]
    """By port, the last rows since somebody looks."""
    note: str = ""
    """Why there are none, in words for people."""
