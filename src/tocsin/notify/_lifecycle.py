"""The life of one alarm (ISA-18.2, OPC UA Part 9), in event time; no clock, no rows, no I/O.

    NORMAL -> ACTIVE_UNACK -> ACTIVE_ACK    -> CLEARED_ACK (closed)
                           -> CLEARED_UNACK -> CLEARED_ACK
    with latching a cleared alarm waits as LATCHED_UNACK or LATCHED_ACK for a reset

Which state follows which stands in `domain.alarms.STATES`. Shelved, suppressed, out of service, maintenance and
chattering lie over these states: the alarm goes on under them, but does not ring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tocsin.batch import END
from tocsin.domain.alarms import ACTIVE, ACTIVE_UNACK, CLOSED, COMMENTED, NORMAL, STATES
from tocsin.domain.calendars import Period, find

NEVER = END
"""The time of a timer that does not run."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How an alarm behaves over time; 0 switches a delay, re-alarm or the chatter limit off."""

    on_delay_us: int = 0
    off_delay_us: int = 0
    latching: bool = False
    realarm_us: int = 0
    realarm_max: int = 10
    chatter_max: int = 0
    chatter_within_us: int = 60_000_000
    maintenance: Sequence[Period] = ()


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """One thing that happened to an alarm."""

    time: int
    name: str
    previous: str
    ring: bool
    by: str = ""
    reason: str = ""


Emit = Callable[["Point", AlarmEvent], None]


@dataclass(slots=True)
class Point:
    """One alarm: a rule for a key."""

    state: str = NORMAL
    """One of `domain.alarms.STATES`."""
    level: int = 0
    """The condition that holds now, counted from the worst (1); 0 for none. Delays have not been waited for yet."""
    announced: int = 0
    """The level that people were last told of; it follows ``level`` when the delays have passed."""
    onset: int = 0
    """When the condition that may become an alarm began."""
    started: int = 0
    """When the condition of this occurrence of the alarm began; 0 before the first one."""
    shelved: bool = False
    """Whether an operator keeps it silent for a time."""
    out_of_service: bool = False
    """Whether an operator has taken it out of service."""
    suppressed: bool = False
    """Whether an operator has suppressed it."""
    by_design: bool = False
    """Whether the plant's own logic suppresses it (``suppressed_when``)."""
    chattering: bool = False
    """Whether it is raised so often that it does not ring."""
    realarms: int = 0
    """How often it has rung again since it became active."""
    told: int = 0
    """How many rows there are of it; the next row has this number plus one."""
    assignee: str = ""
    """Who has it, if it was given to a person."""
    raises: list[int] = field(default_factory=list)
    """When it was raised lately; for chattering."""
    reading: dict[str, float | str | None] = field(default_factory=dict)
    """The reading that changed the condition last: the columns that explain it."""
    column: str = ""
    """The column that the condition is about."""
    signal: str = ""
    """What people call it: the row's column ``signal`` where there is one, else the name of the column."""
    delay_due: int = NEVER
    """When the on-delay or off-delay that is being waited for has passed."""
    shelf_due: int = NEVER
    """When the shelving ends."""
    chatter_due: int = NEVER
    """When it has been calm for long enough to ring again."""
    maintenance_due: int = NEVER
    """When the maintenance in which it was raised ends."""
    realarm_due: int = NEVER
    """When it rings again."""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _NAMES}  # asdict copies all: ten times as slow, at each epoch

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Point:
        return cls(**saved)

    # --------------------------------------------------------------------------------------------- what happens

    def due(self) -> int:
        """Returns when the next timer elapses."""
        return min(self.delay_due, self.shelf_due, self.chatter_due, self.maintenance_due, self.realarm_due)

    def advance(self, to: int, policy: Policy, emit: Emit) -> None:
        """Let event time pass: fire, in order, every timer that has elapsed by then.

        At the end of the stream only delays elapse: nobody waits there for a re-alarm or an unshelving.
        """
        while (at := self.delay_due if to == END else self.due()) <= to and at != NEVER:
            if self.delay_due == at:
                self.delay_due = NEVER
                if self.level:
                    self._raise(at, policy, emit)
                else:
                    self._clear(at, policy, emit)
            elif self.shelf_due == at:
                self._unshelve(at, policy, emit, "", "time is up")
            elif self.chatter_due == at:
                self.chatter_due, self.chattering = NEVER, False
                self._back(at, "chatter_over", policy, emit)
            elif self.maintenance_due == at:
                self.maintenance_due = NEVER
                self._back(at, "maintenance_over", policy, emit)
            else:
                self._realarm(at, policy, emit)

    def condition(self, at: int, level: int, policy: Policy, emit: Emit) -> None:
        """Take in that the condition changes to another level, 0 for none."""
        self.advance(at, policy, emit)
        before, self.level = self.level, level
        if self.state not in ACTIVE:
            if level and not before:
                self.onset, self.delay_due = at, at + policy.on_delay_us
            elif not level:
                self.delay_due = NEVER
        elif not level:
            self.delay_due = at + policy.off_delay_us
        else:
            self.delay_due = NEVER
            if level != self.announced:
                self._change_level(at, policy, emit)
        self.advance(at, policy, emit)

    def suppress_by_design(self, at: int, on: bool, policy: Policy, emit: Emit) -> None:
        """Take in that the plant's own logic says that the alarm means nothing now, or that it does again."""
        self.advance(at, policy, emit)
        self.by_design = on
        if self.state not in CLOSED:
            if on:
                self._emit(at, "suppressed", self.state, False, policy, emit, reason="by design")
            else:
                self._back(at, "unsuppressed", policy, emit, reason="by design")

    def act(
        self, at: int, action: str, by: str, reason: str, until: int | None, assignee: str, policy: Policy, emit: Emit
    ) -> None:
        """Apply what a person does; an action that does not fit the state leaves a row ``refused`` that says why."""
        why_not, previous = "", self.state
        match action:
            case "acknowledge" if STATES[previous].after_acknowledge:
                self.state = STATES[previous].after_acknowledge
                if self.realarm_due != NEVER:
                    self.realarm_due = at + policy.realarm_us
                self._emit(at, "acknowledged", previous, False, policy, emit, by, reason)
            case "reset" if STATES[previous].after_reset:
                self.state = STATES[previous].after_reset
                self._emit(at, "reset", previous, False, policy, emit, by, reason)
            case "shelve" if until is None and self.state not in ACTIVE:
                why_not = "shelving once needs an active alarm; give a time"
            case "shelve" if until is None or until > at:
                self.shelved, self.shelf_due = True, NEVER if until is None else until
                self._emit(at, "shelved", previous, False, policy, emit, by, reason)
            case "shelve":
                why_not = "the time to shelve until is over"
            case "unshelve" if self.shelved:
                self._unshelve(at, policy, emit, by, reason)
            case "suppress" if not self.suppressed:
                self.suppressed = True
                self._emit(at, "suppressed", previous, False, policy, emit, by, reason)
            case "unsuppress" if self.suppressed:
                self.suppressed = False
                self._back(at, "unsuppressed", policy, emit, by, reason)
            case "out_of_service" if not self.out_of_service:
                self.out_of_service = True
                self._emit(at, "out_of_service", previous, False, policy, emit, by, reason)
            case "in_service" if self.out_of_service:
                self.out_of_service = False
                self._back(at, "in_service", policy, emit, by, reason)
            case "ignore" if until is not None and until <= at:
                why_not = "the time until which nothing is to be learnt is over"
            case "relearn" | "ignore" | "maintained":  # for the detector; here it is written down
                self._emit(at, action, previous, False, policy, emit, by, reason)
            case "assign" if STATES[previous].open and assignee:
                self.assignee = assignee
                self._emit(at, "assigned", previous, False, policy, emit, by, reason)
            case "unassign" if self.assignee:
                self.assignee = ""
                self._emit(at, "unassigned", previous, False, policy, emit, by, reason)
            case "unassign":
                why_not = "nobody has it"
            case "comment":
                self._emit(at, COMMENTED, previous, False, policy, emit, by, reason)
            case "label_true" | "label_false":
                self._emit(at, action.replace("label", "labelled"), previous, False, policy, emit, by, reason)
            case "reset" if STATES[STATES[previous].after_acknowledge or previous].after_reset:
                why_not = "acknowledge it before the reset"
            case _:
                why_not = f"it is {self.state}{' and ' + self.mode(at, policy) if self.mode(at, policy) else ''}"
        if why_not:
            self._emit(at, "refused", previous, False, policy, emit, by, f"{action} refused: {why_not} ({reason})")

    def mode(self, at: int, policy: Policy) -> str:
        """Returns why the alarm does not ring; an empty text if it may."""
        if self.out_of_service:
            return "out_of_service"
        if self.suppressed or self.by_design:
            return "suppressed"
        if self.shelved:
            return "shelved"
        if policy.maintenance and find(policy.maintenance, at):
            return "maintenance"
        return "chattering" if self.chattering else ""

    # ----------------------------------------------------------------------------------------------- transitions

    def _raise(self, at: int, policy: Policy, emit: Emit) -> None:
        previous, fresh = self.state, self.state in CLOSED
        if fresh:
            self.started, self.assignee = self.onset, ""
        self.state, self.announced, self.realarms = ACTIVE_UNACK, self.level, 0
        if policy.realarm_us and policy.realarm_max:
            self.realarm_due = at + policy.realarm_us
        if policy.chatter_max:
            recent = [t for t in self.raises if t > at - policy.chatter_within_us]
            self.raises = [*recent[-policy.chatter_max :], at]
            if len(self.raises) > policy.chatter_max:
                self.chattering, self.chatter_due = True, at + policy.chatter_within_us
        if policy.maintenance and (period := find(policy.maintenance, at)):
            self.maintenance_due = period[1]
        self._emit(at, "raised" if fresh else "reraised", previous, True, policy, emit)

    def _clear(self, at: int, policy: Policy, emit: Emit) -> None:
        previous = self.state
        follows = STATES[previous]
        self.state = follows.after_clear_latching if policy.latching else follows.after_clear
        self.realarm_due = self.maintenance_due = NEVER
        self._emit(at, "cleared", previous, False, policy, emit)
        if self.shelved and self.shelf_due == NEVER:
            self._unshelve(at, policy, emit, "", "shelved once, and cleared")

    def _change_level(self, at: int, policy: Policy, emit: Emit) -> None:
        previous, worse, self.announced = self.state, self.level < self.announced, self.level
        if worse:
            self.state = ACTIVE_UNACK
        self._emit(at, "escalated" if worse else "eased", previous, worse, policy, emit)

    def _realarm(self, at: int, policy: Policy, emit: Emit) -> None:
        previous, self.state = self.state, ACTIVE_UNACK
        self.realarms += 1
        self.realarm_due = at + policy.realarm_us if self.realarms < policy.realarm_max else NEVER
        self._emit(at, "realarmed", previous, True, policy, emit)

    def _unshelve(self, at: int, policy: Policy, emit: Emit, by: str, reason: str) -> None:
        self.shelved, self.shelf_due = False, NEVER
        self._back(at, "unshelved", policy, emit, by, reason)

    def _back(self, at: int, name: str, policy: Policy, emit: Emit, by: str = "", reason: str = "") -> None:
        """Say that what kept it silent is over; if it is active and nobody has acknowledged it yet, it rings now."""
        self._emit(at, name, self.state, self.state == ACTIVE_UNACK, policy, emit, by, reason)

    def _emit(
        self,
        at: int,
        name: str,
        previous: str,
        ring: bool,
        policy: Policy,
        emit: Emit,
        by: str = "",
        reason: str = "",
    ) -> None:
        self.told += 1
        emit(self, AlarmEvent(at, name, previous, ring and not self.mode(at, policy), by, reason))


_NAMES = tuple(one.name for one in fields(Point))
