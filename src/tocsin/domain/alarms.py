"""The words of an alarm system: its states, its severities and what operators may do (ISA-18.2, OPC UA Part 9).

They stand here once. The alarm step, the command line and the page take them from here; the page's JavaScript as a
module that the server makes of them (`serve.words`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from tocsin.domain.roles import ENGINEER, OPERATOR

NORMAL = "NORMAL"
ACTIVE_UNACK = "ACTIVE_UNACK"
ACTIVE_ACK = "ACTIVE_ACK"
CLEARED_UNACK = "CLEARED_UNACK"
CLEARED_ACK = "CLEARED_ACK"
LATCHED_UNACK = "LATCHED_UNACK"
LATCHED_ACK = "LATCHED_ACK"


class LifecycleState(msgspec.Struct, frozen=True, kw_only=True):
    """One state in the life of an alarm, and the states that follow it; an empty text where nothing follows."""

    name: str
    """Its name in the rows."""
    label: str
    """What people read."""
    active: bool = False
    """Whether the condition still lasts."""
    open: bool = True
    """Whether somebody still has something to do or to wait for."""
    unacknowledged: bool = False
    """Whether nobody has acknowledged it yet."""
    after_acknowledge: str = ""
    """The state after an operator has acknowledged it."""
    after_reset: str = ""
    """The state after an operator has reset it."""
    after_clear: str = ""
    """The state after the condition is over."""
    after_clear_latching: str = ""
    """The state after the condition is over, where the alarm latches."""


def _by_name(*states: LifecycleState) -> Mapping[str, LifecycleState]:
    return MappingProxyType({state.name: state for state in states})


STATES = _by_name(
    LifecycleState(name=NORMAL, label="normal", open=False),
    LifecycleState(
        name=ACTIVE_UNACK, label="active", active=True, unacknowledged=True,
        after_acknowledge=ACTIVE_ACK, after_clear=CLEARED_UNACK, after_clear_latching=LATCHED_UNACK,
    ),
    LifecycleState(
        name=ACTIVE_ACK, label="active, acknowledged", active=True,
        after_clear=CLEARED_ACK, after_clear_latching=LATCHED_ACK,
    ),
    LifecycleState(
        name=CLEARED_UNACK, label="cleared, not acknowledged", unacknowledged=True, after_acknowledge=CLEARED_ACK
    ),
    LifecycleState(name=CLEARED_ACK, label="cleared", open=False),
    LifecycleState(
        name=LATCHED_UNACK, label="latched, not acknowledged", unacknowledged=True, after_acknowledge=LATCHED_ACK
    ),
    LifecycleState(name=LATCHED_ACK, label="latched, acknowledged", after_reset=CLEARED_ACK),
)  # fmt: skip
"""Every state, by its name."""
CLOSED = tuple(name for name, state in STATES.items() if not state.open)
"""States in which no alarm is open."""
ACTIVE = tuple(name for name, state in STATES.items() if state.active)
"""States in which the condition lasts."""


class Severity(msgspec.Struct, frozen=True, kw_only=True):
    """A band of priorities or scores."""

    name: str
    """Its name in the rows, on the page and in messages."""
    least: float
    """The lowest priority or score, from 0 to 100, that falls in the band."""
    shape: str
    """The sign that stands for it beside its colour, for those who do not see the colour."""
    style: str
    """How a terminal shows it, in the words of Rich."""


SEVERITIES = (
    Severity(name="warning", least=0, shape="●", style="cyan"),
    Severity(name="minor", least=25, shape="■", style="yellow"),
    Severity(name="major", least=50, shape="▲", style="red"),
    Severity(name="critical", least=75, shape="◆", style="bold red"),
)
"""All bands, the least severe first."""
_RANKS = {severity.name: rank for rank, severity in enumerate(SEVERITIES, 1)}


class OperatorAction(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may do with an alarm."""

    name: str
    """Its name in the log of actions and in the API."""
    command: str
    """The word for it on the command line."""
    role: str
    """The role that it needs on the page and in the API, see `domain.roles`."""
    sentence: str
    """What it does."""
    label: str = ""
    """What the page's button says; empty if the page has no button for it."""
    states: tuple[str, ...] = ()
    """The states in which it can be done; empty for all."""
    begins: str = ""
    """The mode that it puts the alarm into."""
    ends: str = ""
    """The mode that it takes the alarm out of."""
    timed: bool = False
    """Whether it may last until a given time."""
    beforehand: bool = False
    """Whether it may be done with an alarm that has never rung."""
    detector: bool = False
    """Whether it is for the detector before the alarm, which tells episodes (`health`), and known to it by the key."""
    labels: str = ""
    """What it says of one occurrence of an alarm, also of one that is over: ``true`` or ``false``."""
    asks: str = ""
    """What it needs beside the alarm: ``person``, the name of whom it is for, or ``text``, which is its reason."""
    assigned: bool = False
    """Whether it is only for an alarm that somebody has."""
    key: str = ""
    """The key that does it on the page."""

    @property
    def remarks(self) -> bool:
        """Whether it says something of one occurrence of an alarm, which is then named ``rule:key#id``."""
        return bool(self.labels) or self.asks == "text"


MAINTAINED = "maintained"
"""The action by which somebody says that maintenance was done."""
OPERATOR_ACTIONS = (
    OperatorAction(
        name="acknowledge", command="ack", role=OPERATOR, label="Acknowledge", key="a",
        sentence="Acknowledge an alarm: somebody takes care.",
        states=tuple(state.name for state in STATES.values() if state.after_acknowledge),
    ),
    OperatorAction(
        name="reset", command="reset", role=OPERATOR, label="Reset",
        sentence="Reset a latched alarm whose cause is gone.",
        states=tuple(state.name for state in STATES.values() if state.after_reset),
    ),
    OperatorAction(
        name="shelve", command="shelve", role=OPERATOR, label="Shelve 1 h", key="s", states=ACTIVE, begins="shelved",
        timed=True, beforehand=True, sentence="Keep an alarm silent, for a time or until it clears.",
    ),
    OperatorAction(
        name="unshelve", command="unshelve", role=OPERATOR, label="Unshelve", ends="shelved",
        sentence="Let a shelved alarm ring again.",
    ),
    OperatorAction(
        name="assign", command="assign", role=OPERATOR, label="Assign", asks="person",
        states=tuple(state.name for state in STATES.values() if state.open),
        sentence="Give an open alarm to a person, by the name of their account.",
    ),
    OperatorAction(
        name="unassign", command="unassign", role=OPERATOR, label="Unassign", assigned=True,
        sentence="Take an alarm back from whom it was given to.",
    ),
    OperatorAction(
        name="comment", command="comment", role=OPERATOR, label="Comment", asks="text",
        sentence="Write something down about an alarm, also about one that is over.",
    ),
    OperatorAction(
        name="suppress", command="suppress", role=ENGINEER, begins="suppressed", beforehand=True,
        sentence="Keep an alarm silent by design.",
    ),
    OperatorAction(
        name="unsuppress", command="unsuppress", role=ENGINEER, ends="suppressed", sentence="End a suppression."
    ),
    OperatorAction(
        name="out_of_service", command="out-of-service", role=ENGINEER, begins="out_of_service", beforehand=True,
        sentence="Take an alarm out of service, such as for maintenance.",
    ),
    OperatorAction(
        name="in_service", command="in-service", role=ENGINEER, ends="out_of_service",
        sentence="Put an alarm back into service.",
    ),
    OperatorAction(
        name="relearn", command="relearn", role=ENGINEER, label="New normal", beforehand=True, detector=True,
        sentence="Take what is now for the new normal: from now on all is learnt anew.",
    ),
    OperatorAction(
        name="ignore", command="ignore", role=ENGINEER, label="Learn nothing for 1 h", timed=True, beforehand=True,
        detector=True, sentence="Learn nothing until a time, such as of a trial run.",
    ),
    OperatorAction(
        name=MAINTAINED, command="maintained", role=OPERATOR, label="Maintenance done", beforehand=True,
        detector=True,
        sentence="Say that maintenance is done: wear and its onset count afresh, by what was normal before.",
    ),
    OperatorAction(
        name="label_true", command="label true", role=OPERATOR, label="True alarm", labels="true",
        sentence="Say that an alarm was right: something was wrong.",
    ),
    OperatorAction(
        name="label_false", command="label false", role=OPERATOR, label="False alarm", labels="false",
        sentence="Say that an alarm was wrong: nothing was the matter.",
    ),
)  # fmt: skip
"""All actions, in the order in which the page shows their buttons. ``states`` and modes say where a button is offered;
the alarm step alone decides whether an action fits, and answers one that does not with a row ``refused``."""
_ACTION_BY_WORD = {
    word: action for action in OPERATOR_ACTIONS for word in (action.name, action.command.replace("-", "_"))
}

RAISING = ("raised", "reraised")
"""Events by which an alarm becomes active; the key figures count these."""
LABELLED = MappingProxyType(
    {f"labelled_{action.labels}": action.labels for action in OPERATOR_ACTIONS if action.labels}
)
"""Events by which somebody has said what an occurrence was, and what was said."""
COMMENTED = "commented"
"""The event of a comment: ``by`` says whose it is, ``reason`` what it says."""
REMARKS = (*LABELLED, COMMENTED)
"""Events that say something of one occurrence, also of one that is over, and change no state: beside them the newest
row of the alarm stays the newest."""
CASE_OPENED, CASE_WORSE, CASE_CLOSED = "case_opened", "case_worse", "case_closed"
FLOOD_BEGINS, FLOOD_OVER = "flood_begins", "flood_over"
CASE_EVENTS = (CASE_OPENED, CASE_WORSE, CASE_CLOSED, FLOOD_BEGINS, FLOOD_OVER)
"""Events of rows that speak of a case, which gathers alarms, and not of one alarm."""


def severity(priority: float) -> str:
    """Returns the band that a priority or score from 0 to 100 falls in.

    Examples
    --------
    >>> [severity(p) for p in (3, 25, 50, 75)]
    ['warning', 'minor', 'major', 'critical']
    """
    return next((band.name for band in reversed(SEVERITIES) if priority >= band.least), SEVERITIES[0].name)


def rank(severity: str) -> int:
    """Returns how severe a band is: 1 for the least severe, 0 for an empty text; an unknown band counts as 1."""
    return _RANKS.get(severity, int(bool(severity)))


def operator_action(word: str) -> OperatorAction | None:
    """Returns the action that a word stands for (its name or its command, hyphens or underscores), or None.

    Examples
    --------
    >>> operator_action("out-of-service").name
    'out_of_service'
    """
    return _ACTION_BY_WORD.get(word.replace("-", "_"))


def action_words() -> Sequence[str]:
    """Returns every word that names an action."""
    return tuple(_ACTION_BY_WORD)
