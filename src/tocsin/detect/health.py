"""Health: a machine against what it was like while it was well; a fault that lasts stays told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field as Setting
from pydantic import field_validator

from tocsin.bases import Detector, Judgement, Tells
from tocsin.batch import (
    ACTIONS,
    END,
    START,
    TIME_TYPE,
    Batch,
    Codes,
    Floats,
    Ints,
    as_numbers,
    as_one,
    as_times,
    times_us,
)
from tocsin.detect import _episode as episode
from tocsin.detect import _machine as machine
from tocsin.detect._baseline import PER_SIGNAL, PROFILE, VIEWS
from tocsin.detect._still import PER_HEARD, PER_STILL, listen, overdue
from tocsin.domain.alarms import operator_action
from tocsin.domain.calendars import as_us
from tocsin.settings.quantities import Duration
from tocsin.state import Columns, Field

Number = TypeVar("Number", bound=np.floating)
SIGNAL = "signal"
STATES = pa.array(["warming", "normal", "abnormal"])


def flat(numbers: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Returns the same numbers without their second dimension; never a copy, since they are written into."""
    return np.reshape(numbers, -1, copy=False)


class Health(Detector):
    """Says whether a machine is as it was while it was well: ``state``, ``since`` when, how far, and ``why``.

    The default for machines. It holds each reading against a baseline that what is abnormal does not teach: a jump is
    told at once, wear that creeps is told when the level (the mean of about ``span`` readings) leaves its own band, and
    both stay told, with a score of 75 or more, until the machine is back where it was. An `alarm` behind it rings at
    the onset and clears then. The band is that of the past: a value that wanders by nature, or has a daily or weekly
    rhythm (taken off once two days, or weeks, of it are known), gets its own.

    ``of`` may name several columns of one machine: then the root mean square of their deviations is judged, over those
    that vary, and ``signal`` names the one that stands out most (if one column is judged, a column ``signal`` that is
    there stays as it is). A row may lack some of them: one without the signal that is away ends no episode. ``depth``
    is how far its level lies from the expected, in standard deviations; ``since`` is the estimated onset, often before
    the first score of 75.

    It also tells a signal that hangs (one value for ten times as many readings as ever before), one of several that is
    missing from its machine's rows for that long, and a machine that is silent: no reading for ten times as long as
    ever, and for a minute. Of a silence there is no reading to judge, so it is told in a row of its own, without one,
    once the watermark has passed it: others must still be heard. What rests by nature is watched for a week before
    standing still means anything, what moves smoothly for a day.

    A new level that has lasted for ``relearn`` without moving is accepted: one row with score 0 says so in ``why``, and
    all is learnt anew (state ``warming``). People have the same by actions on ``health:KEY``, or on an alarm behind it,
    ``rule:KEY``: ``relearn`` (what is now is the new normal), ``ignore`` (learn nothing until its end) and
    ``maintained`` (the episode is over; level and onset begin afresh, by what was normal).

    Not for spikes in a value that wanders (`novelty`), nor for signals that are strange only together
    (`multivariate`). Time stamps count, not rows: a reading after a gap moves the level more, a second one at the same
    instant teaches nothing.

    Clipped recursions after Huber 1964, the band after Allan 1966, onset after Page 1954 and Hinkley 1971.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.random.default_rng(1).normal(20, 1, 2000)
    >>> values[1000:1800] += 8
    >>> left = feed(Health(), rows({"value": values})).to_pylist()
    >>> [row["state"] for row in left].count("abnormal") >= 800, left[900]["state"], left[1900]["state"]
    (True, 'normal', 'normal')
    >>> left[1500]["why"]
    'value jumped above its usual 13.2 to 27.5 at 00:16:40 on 2026-01-01 (UTC)'
    """

    SHORTHAND: ClassVar[str | None] = "of"
    ACCEPTS_ACTIONS: ClassVar[bool] = True
    TELLS: ClassVar[Tells] = "lasting"
    LIMITS_ITSELF: ClassVar[bool] = True
    FAULT: ClassVar[Literal["spike", "shift", "drift", "stuck", "none"]] = "shift"
    KEEPS_STATE: ClassVar[Collection[str]] = ("width", "relearn", "frozen")
    EXTRA: ClassVar[Sequence[pa.Field]] = (
        pa.field("state", pa.string()),
        pa.field("since", TIME_TYPE),
        pa.field("depth", pa.float64()),
        pa.field(SIGNAL, pa.string()),
        pa.field("why", pa.string()),
    )
    EXAMPLES: ClassVar[Sequence[Mapping[str, Any]]] = (
        {},
        {"of": ["value", "other"], "learn": 20, "span": 5, "relearn": "10s"},
        {"learn": 20, "direction": "above", "relearn": None},
    )

    # One column, as every detector has it, or several.
    of: str | tuple[str, ...] = "value"  # type: ignore[assignment]
    """The column with the reading, or several columns with signals of the machine."""
    learn: int = Setting(500, ge=10)
    """How many readings of a machine are learnt before one is judged."""
    span: float = Setting(20.0, ge=1)
    """Over about how many readings the level is averaged."""
    width: float = Setting(5.0, gt=0)
    """Half the width of the usual band, in standard deviations; at its edge the score is 75."""
    frozen: bool = False
    """Whether the baseline stays as the first ``learn`` readings made it: for machines that wear from the start."""
    relearn: Duration | None = Setting(14 * 86_400_000_000, gt=0)
    """After how long at a new level that level is accepted as normal; null: never."""

    @field_validator("of")
    @classmethod
    def _named(cls, of: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not of:
            raise ValueError("health needs at least one column to judge")
        return of

    @property
    def signals(self) -> tuple[str, ...]:
        return (self.of,) if isinstance(self.of, str) else self.of

    def output_schema(self, input: pa.Schema) -> pa.Schema:
        """The columns that came and those it adds; all but key and time may be null, since a silence has no reading."""
        fields = super().output_schema(input)
        return pa.schema([field if field.name in ("key", "time") else field.with_nullable(True) for field in fields])

    def adds(self, input: pa.Schema) -> Sequence[pa.Field]:
        """Where rows say of which signal their reading is, that stays: there is no other to name."""
        named = isinstance(self.of, str) and SIGNAL in input.names
        return [field for field in self.EXTRA if not (named and field.name == SIGNAL)]

    def fields(self) -> Mapping[str, Field]:
        signals = len(self.signals)
        return {
            "machine": Field(width=machine.PER_MACHINE),
            "signals": Field(width=signals * PER_SIGNAL),
            "profiles": Field(np.float32, width=signals * PROFILE),
            "still": Field(width=signals * PER_STILL),
            "heard": Field(width=PER_HEARD),
        }

    def readings(self, rows: pa.RecordBatch) -> Floats:
        return np.column_stack([self.usable(rows, column) for column in self.signals])

    def step(self, state: Columns, batch: Batch) -> tuple[Columns, Sequence[Batch]]:
        if batch.port == ACTIONS:
            for action in batch.rows.to_pylist():
                self._act(state, action)
            return state, ()
        slots = state.slots(batch.rows.column("key"))
        judged = self.update(state, batch.rows, slots)
        return state, (batch.with_rows(self._with_silences(state, slots, judged, batch.watermark_us)),)

    def _with_silences(self, state: Columns, slots: Codes, judged: pa.RecordBatch, watermark_us: int) -> pa.RecordBatch:
        """Rows with a verdict, and one more for each machine of which there is no reading for too long.

        A silence that a reading ends is told before that reading: as the watermark would have, had it come between.
        """
        heard = np.ones(len(slots), np.bool_)
        if self.when is None and judged.column("state").null_count:
            heard = judged.column("state").is_valid().to_numpy(zero_copy_only=False)
        room = max(len(slots), len(state))
        before, known, last = (np.empty(room, np.int64) for _ in range(3))
        memory, parts, begin = flat(state["heard"]), [], 0
        count = listen(slots, times_us(judged), heard, memory, len(state), self.learn, before, known, last)
        for at, known_us, last_us in zip(before[:count], known[:count], last[:count], strict=True):
            parts.append(judged.slice(begin, at - begin))
            parts.append(self._silence(state, slots[at : at + 1], known_us, last_us, judged.schema))
            begin = at
        parts.append(judged.slice(begin))
        if watermark_us not in (START, END):
            which = np.empty(room, np.int32)
            count = overdue(memory, len(state), watermark_us, self.learn, which, known, last)
            order = np.argsort(known[:count], kind="stable")
            parts += [self._silence(state, which[i : i + 1], known[i], last[i], judged.schema) for i in order]
        return as_one(parts)

    def _silence(self, state: Columns, slot: Codes, known_us: int, last_us: int, schema: pa.Schema) -> pa.RecordBatch:
        """The row that says that a machine is silent; it holds no reading. It costs some 50 µs, once a silence."""
        said = {
            "key": state.keys.keys(slot),
            "time": as_times(np.array([known_us])),
            "score": pa.array([75.0]),
            "state": pa.array(["abnormal"]),
            "since": as_times(np.array([last_us])),
            "why": pa.array([self._why(machine.SILENT, 0, 1, float(last_us), 0, 0)]),
        }
        columns = [said.get(field.name, pa.nulls(1, field.type)) for field in schema]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _act(self, state: Columns, action: Mapping[str, Any]) -> None:
        """Note what a person asked for one machine, by its key: the rule may be an alarm's behind this step.

        Of machines never seen nothing is known to act on.
        """
        known = operator_action(str(action["action"]))
        if known is None or not known.detector:
            return
        _, _, key = str(action["alarm"]).partition(":")
        slot = pc.index(state.keys.names(), key).as_py()
        if slot < 0:
            return
        numbers, at = state["machine"][slot], as_us(action["time"])
        if action["action"] == "relearn":
            numbers[machine.RELEARN_FROM] = at
            state["heard"][slot] = 0.0
        elif action["action"] == "maintained":
            numbers[machine.MAINTAINED_FROM] = at
        elif action["action"] == "ignore" and action["until"] is not None:
            numbers[machine.MUTE_FROM], numbers[machine.MUTE_UNTIL] = at, as_us(action["until"])

    def judge(self, state: Columns, slots: Codes, times: Ints, values: Floats) -> Judgement:
        settings = np.array(
            [
                self.learn, self.span, self.width, self.relearn or 0, self.direction != "below",
                self.direction != "above", self.deviation_min, self.deviation_min_percent, self.frozen,
            ], np.float64,
        )  # fmt: skip
        verdicts = np.empty((episode.VERDICT_LINES, len(values)))
        states, stories = np.empty(len(values), np.int8), np.empty((episode.STORY_LINES, len(values)))
        machines, signals, profiles, still = map(flat, (state[name] for name in tuple(self.fields())[:4]))
        row, residuals = (np.empty(len(self.signals) * each) for each in (machine.PER_ROW, VIEWS))
        episode.judge(
            slots, times, values, machines, signals, profiles, still, settings, row, residuals, verdicts, states,
            stories,
        )  # fmt: skip
        expected, lower, upper, score = verdicts
        return expected, lower, upper, score, *self._episodes(states, stories)

    def _episodes(self, states: episode.Signs, stories: Floats) -> tuple[pa.Array, ...]:
        """The columns of `EXTRA`; sentences are made once for each episode, not for each row."""
        said, first = stories[episode.OUT_REASON] != machine.NOTHING, states[0] if len(states) else -1
        if first >= 0 and (states == first).all():  # half the cost where it is so, as it is most often
            state = pa.repeat(STATES[int(first)], len(states))
        else:
            state = STATES.take(pa.array(states, mask=states < 0))
        if not said.any():
            nothing = (pa.nulls(len(said), field.type) for field in self.EXTRA[1:])
            return (state, *nothing)
        since = pa.array(np.where(said, stories[episode.OUT_SINCE], 0).astype(np.int64), mask=~said).view(TIME_TYPE)
        names = np.where(said, stories[episode.OUT_SIGNAL], 0).astype(np.int32)
        signal = pa.array(self.signals).take(pa.array(names, mask=~said))
        depth = as_numbers(np.where(said, stories[episode.OUT_DEPTH], np.nan))
        parts = np.stack([stories[line][said] for line in episode.SENTENCE], axis=1)
        episodes, codes = np.unique(parts, axis=0, return_inverse=True)
        places = np.zeros(len(said), np.int32)
        places[said] = codes.reshape(-1)
        why = pa.array([self._why(*numbers) for numbers in episodes.tolist()], pa.string())
        return state, since, depth, signal, why.take(pa.array(places, mask=~said))

    def _why(self, reason: float, signal: float, side: float, since: float, lower: float, upper: float) -> str:
        name, where = self.signals[int(signal)], "above" if side > 0 else "below"
        when = f"{datetime.fromtimestamp(since / 1e6, UTC):%H:%M:%S on %Y-%m-%d} (UTC)"
        match int(reason):
            case machine.JUMPED:
                return f"{name} jumped {where} its usual {lower:.3g} to {upper:.3g} at {when}"
            case machine.CLIMBED:
                return f"{name} has crept {where} its usual mean of {lower:.3g} to {upper:.3g} since {when}"
            case machine.SETTLED_THERE:
                return f"{name} has stayed near {lower:.3g} since {when}: accepted as the new normal, learnt anew"
            case machine.STUCK:
                return f"{name} has not changed from {lower:.6g} since {when}, far longer than ever before"
            case machine.MISSING:
                return f"{name} has given no reading since {when}, far longer than ever before"
            case machine.SILENT:
                return f"no reading since {when}, far longer than ever before"
            case machine.MAINTAINED:
                return f"maintenance was done at {when}: judged afresh by what was normal before"
            case _:
                return f"all is learnt anew from {when} on, because somebody asked for it"
