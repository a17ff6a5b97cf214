"""What the page's server tells browsers: the one schema of that wire.

The server fills these in; the browser gets their JSON Schema with the page (`serve.words`) and checks what arrives.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tocsin.engine.wire import SinkLag, SourceSilence
from tocsin.pipeline.plan import Asset

Numbers = list[float | None]


class Points(msgspec.Struct, omit_defaults=True):
    """Points of one series in columns, oldest first; a column that holds nothing is left out."""

    time: list[float]
    """Milliseconds since 1970."""
    value: Numbers
    """The reading; the mean where a point stands for several."""
    least: Numbers = []
    """The least reading that a point stands for, and the most."""
    most: Numbers = []
    expected: Numbers = []
    lower: Numbers = []
    upper: Numbers = []
    score: Numbers = []


class Contribution(msgspec.Struct):
    """What pulls a machine's health down."""

    signal: str
    percent: int
    """Its share of all that pulls it down."""


class Life(msgspec.Struct):
    """How long a machine has until it fails, in readings."""

    expected: float
    lower: float
    upper: float
    confidence: float
    """The share of machines whose true life lies between the bounds."""
    reading_s: float | None = None
    """How far readings are apart; None if not known yet."""


class Tile(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The state of a machine: what every viewer is told of every machine."""

    id: int
    """By which more of it is asked for (`/api/glances`)."""
    name: str
    status: Literal["running", "silent", "alarm"]
    """``alarm`` while an alarm of it is open: active, or not acknowledged yet."""
    severity: str
    """Of its worst open alarm; empty if none is open."""
    active: bool
    """Whether one of its alarms is active."""
    silent: bool
    """Whether nothing has come for much longer than usual."""
    state: str
    """What the machine says of itself (running, idle ...), if anything."""
    label: str = ""
    """What people call it, where that is not its name; this and the next two are the pipeline's ``assets``."""
    area: str = ""
    line: str = ""


class SignalLabel(msgspec.Struct, omit_defaults=True):
    """What people call a signal, and what it is measured in."""

    name: str = ""
    unit: str = ""


class Plant(msgspec.Struct, frozen=True):
    """The plant as people know it (`pipeline.assets`)."""

    machines: dict[str, Asset] = {}
    """By the name that the rows have."""
    signals: dict[str, SignalLabel] = {}
    """By the name that series have."""
    zone: str = ""
    """Whose clocks the page shows; empty: the browser's."""


NO_PLANT = Plant()


class SignalValue(msgspec.Struct):
    """The newest reading of a signal."""

    signal: str
    label: str
    """Its name without what the names of all signals of the machine begin with."""
    value: float | None


class Glance(msgspec.Struct, kw_only=True):
    """What a tile shows beside the state, for those that are in sight."""

    id: int
    health: int | None
    """From 0 to 100, by its detectors, forecasts and remaining life; None if nobody judges it."""
    pulled_by: list[Contribution]
    """What pulls it down, most first."""
    life: Life | None
    signals: int
    """How many signals it has."""
    values: list[SignalValue]
    """Of the first few of them."""
    recent: Numbers
    """The newest readings of the first one."""


class Series(msgspec.Struct):
    """One signal of a machine in one stream."""

    id: int
    machine: str
    signal: str
    stream: str


class MachineSeries(Series):
    """A series with its points."""

    points: Points


class ShownAlarm(msgspec.Struct, kw_only=True):
    """The newest row of an alarm."""

    id: str
    machine: str
    """The key that it is of."""
    rule: str = ""
    signal: str = ""
    """What is judged, as the page names it."""
    time: str
    """When its newest row was, ISO 8601."""
    started: str | None = None
    """When the condition began."""
    state: str
    severity: str
    mode: str = ""
    event: str = ""
    message: str = ""
    advice: str = ""
    value: float | None = None
    expected: float | None = None
    limit: float | None = None
    unit: str = ""
    score: float | None = None
    why: str = ""
    """The sentence of a detector that tells episodes."""
    since: str = ""
    """The onset as that detector estimates it, ISO 8601."""
    depth: float | None = None
    """How far the level has gone, in standard deviations."""
    contributions: str = ""
    """What has raised the verdict that it rests on, as ``vibration 62 %, temperature 21 %``."""
    assignee: str = ""
    """Whose it is, if it was given to a person."""
    by: str = ""
    reason: str = ""
    label: str = ""
    """What somebody has said it was: ``true``, ``false`` or nothing yet."""
    comment: str = ""
    """The last one, behind the name of who wrote it."""


class Figures(msgspec.Struct, kw_only=True):
    """The figures at the top of the page."""

    engine: Literal["live", "stalled", "gone"]
    """``stalled``: connected, but nothing has been heard of it for some seconds."""
    engine_silent_s: float
    """How long ago the engine was heard."""
    trouble: str | None
    """Why nothing flows right now."""
    rows_per_s: float
    lag_s: float | None
    rows_in: float
    late: float
    bad: float
    bad_by_reason: dict[str, float]
    machines_left_out: int
    """How many machines are watched but not shown."""
    series_in_turn: int
    """How many signals of machines take turns in what is live, because too many come at once; 0 if all are heard."""
    sinks: dict[str, SinkLag]
    """Those in trouble, by id."""
    sources: dict[str, SourceSilence]
    """Those in trouble, by id."""


class Changes(msgspec.Struct, omit_defaults=True):
    """What has changed since the message before."""

    counters: Figures
    machines: list[Tile] = []
    alarms: list[ShownAlarm] = []


class NewPoints(msgspec.Struct):
    """What has come of one machine since the message before, for those who look at it (event ``points``)."""

    machine: str
    series: list[MachineSeries]
    again_s: float = 0.0
    """Points were left out before these: after so many seconds the tables hold them; 0 if none were."""


class Machines(msgspec.Struct):
    """What `/api/machines` answers."""

    position: str
    """The event after which changes go on."""
    machines: list[Tile]
    signals: dict[str, SignalLabel] = {}
    """By the name that series have."""


class Glances(msgspec.Struct):
    """What `/api/glances` answers."""

    glances: list[Glance]


class Alarms(msgspec.Struct):
    """What `/api/alarms` answers."""

    position: str
    alarms: list[ShownAlarm]


class People(msgspec.Struct):
    """What `/api/people` answers: to whom an alarm can be given."""

    names: list[str]
    """None where nobody has to sign in: then any name will do."""


class AlarmEvent(msgspec.Struct):
    """One row of an alarm: a change of its state, or what somebody did."""

    id: str
    key: str
    rule: str
    time: str
    """ISO 8601."""
    severity: str
    state: str
    event: str
    message: str
    by: str
    reason: str
    assignee: str | None = None
    """Whose it is then; null in tables from before alarms were given to people."""


class EarlierCase(msgspec.Struct):
    """An earlier occurrence of the same alarm, and how it ended."""

    id: str
    started: str
    """From when, and until when, ISO 8601."""
    until: str
    state: str
    message: str
    said: list[str]
    """What somebody has said it was: ``true``, ``false``."""
    comments: list[str]
    """What people have written about it, each behind their name."""


class BandAtOnset(msgspec.Struct, omit_defaults=True):
    """Between what a signal should have been when its alarm began: the detector's band, or the limit."""

    expected: float | None = None
    lower: float | None = None
    upper: float | None = None
    limit: float | None = None


class SignalSpan(msgspec.Struct):
    """From where to where a signal went."""

    least: float | None
    most: float | None
    count: int
    """How many points that rests on."""


class Onset(msgspec.Struct):
    """The signal of an alarm from an hour before its onset until an hour after it."""

    signal: str
    at_ms: float
    """When it began, in milliseconds since 1970."""
    points: Points
    band: Points
    """The band of each moment that has been kept: ``lower`` and ``upper``."""
    at_onset: BandAtOnset
    before: SignalSpan
    after: SignalSpan


class Maintenance(msgspec.Struct):
    """Somebody has said that maintenance was done."""

    time: str
    """ISO 8601."""
    alarm: str
    """What it was said of, as ``rule:key``."""
    by: str
    """Who said it, by the audit."""
    reason: str
    audit: int
    """The number of the row of the audit that says so."""


class Evidence(msgspec.Struct):
    """What `/api/alarms/{id}/evidence` answers: what is known of an alarm, from the tables."""

    rests_on: dict[str, int]
    """The tables that it was read from, with their versions."""
    alarm: AlarmEvent
    """Its newest row."""
    history: list[AlarmEvent]
    """All its rows, from the onset on."""
    beside: list[AlarmEvent]
    """What else rang from an hour before it until an hour after it."""
    before: list[EarlierCase]
    """Latest first."""
    maintenance: list[Maintenance] | None
    """Of its machine, latest first; null where the audit cannot be read."""
    onset: Onset | None = None
    """Its signal before and after it began; null where the tables hold no reading of it."""


class QueryColumn(msgspec.Struct):
    """A column of an answer."""

    name: str
    kind: Literal["number", "time", "text"]


class QueryAnswer(msgspec.Struct):
    """What `/api/sql` answers."""

    rests_on: dict[str, int]
    """The tables that were asked, with their versions."""
    columns: list[QueryColumn]
    rows: list[list[Any]]
    """A cell is a number, a truth, text (times in UTC too), or null; lists and structs are as JSON has them."""
    is_cut: bool
    """Whether there were more rows."""


class MachineHistory(msgspec.Struct):
    """What `/api/series` answers."""

    position: str
    machine: str
    series: list[MachineSeries]
    note: str = ""
    """What of it is not shown, in words for people; empty if all is."""
    again_s: float = 0.0
    """After how long more of the time before is in the tables; 0 if all of it is here."""


class FaultLine(msgspec.Struct):
    """Where a damaged part of a bearing would be seen in a spectrum."""

    name: str
    """BPFO, BPFI, BSF or FTF."""
    part: str
    hz: float
    """How often it would be struck; a rolling element twice in a spin."""
    ratio: float | None
    """Of the line there to the noise around it."""
    is_named: bool
    """Whether the block says that this part is damaged."""


class Waterfall(msgspec.Struct, kw_only=True):
    """Spectra by time."""

    begin_ms: float
    """When the first cell begins, in milliseconds since 1970."""
    cell_ms: float
    cells: int
    lines: int
    top_hz: float
    """Where the last line ends; the first begins at 0."""
    lowest: float
    """The amplitude of level 1, and that of level 255; between them levels are logarithmic."""
    highest: float
    levels: bytes
    """Base64; line by line of cell after cell. 0: nothing is known."""


class Spectra(msgspec.Struct, kw_only=True):
    """What `/api/spectra` answers."""

    machine: str
    kinds: list[str] = []
    """Which there are: ``acceleration``, ``envelope``; none where no table has spectra of the machine."""
    kind: str = ""
    """Which of them this is."""
    unit: str = ""
    at_ms: float | None = None
    """When the block was whose spectrum this is; None if there is none in this time."""
    top_hz: float = 0.0
    amplitudes: Numbers = []
    """From 0 to ``top_hz``."""
    shaft_hz: float | None = None
    fault: str = ""
    """The part that the block says is damaged."""
    faults: list[FaultLine] = []
    waterfall: Waterfall | None = None


class Lane(msgspec.Struct):
    """How a machine, or one of its signals, was over a range of time."""

    machine: str
    cells: list[int]
    """-1: nothing is known; 0: calm; else how severe, from 1 for the least severe band."""
    signal: str = ""
    """Empty where it is of the machine."""


class Lanes(msgspec.Struct, kw_only=True):
    """What `/api/lanes` answers: the worst machines first."""

    begin_ms: float
    """When the first cell begins, in milliseconds since 1970."""
    cell_ms: float
    lanes: list[Lane]
    first: int
    """The place of the first of these lanes among all."""
    machines: int
    """How many machines, or signals, have a lane."""
    note: str
    """What is left out, in words for people."""


class Frequent(msgspec.Struct):
    """How often an alarm was raised."""

    alarm: str
    """``rule:key``."""
    raised: int


class KeyFigures(msgspec.Struct, kw_only=True):
    """What `/api/kpis` answers: key figures of the alarm system after ISA-18.2, over all rows of a table."""

    begin: str | None = msgspec.field(name="from")
    """ISO 8601."""
    until: str | None
    raised: int
    rung: int
    silent: int
    """Raised while shelved or suppressed."""
    open: int
    per_ten_minutes_mean: float
    per_ten_minutes_max: int
    flood_percent_of_time: float
    floods: int
    chattering: list[str]
    """As ``rule:key``, these and the next."""
    stale: list[str]
    most_frequent: list[Frequent]
    by_severity: dict[str, int]


class AccessEntry(msgspec.Struct):
    """An account or a token."""

    name: str
    kind: Literal["account", "token"]
    role: str
    made: str
    """ISO 8601, as all times here."""
    expires: str | None
    """None for an account."""
    is_expired: bool


class AuditEntry(msgspec.Struct):
    """A row of the audit."""

    number: int
    time: str
    who: str
    role: str
    through: str
    what: str
    subject: str
    details: str


class AccessReport(msgspec.Struct):
    """What `/api/access` answers."""

    entries: list[AccessEntry]
    audit: list[AuditEntry] = []
    """Its newest rows, the newest first."""
    rows: int = 0
    """How many rows of it were checked."""
    head: str = ""
    """``number:hash`` of the newest."""
    fault: str = ""
    """The first row that is not as it was written, and how; empty if all are."""


class SessionInfo(msgspec.Struct):
    """What `/api/session` answers."""

    csrf: str
    """What a change must carry; empty for a program with a token."""
    title: str
    version: str
    name: str
    """Whose it is; the audit has this name."""
    role: str
    signed_in: bool
    """Whether one has to sign in, and so can sign out."""
    zone: str
    """The plant's time zone, as ``Europe/Berlin``; empty where nobody has said it."""
