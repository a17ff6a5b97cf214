"""The words of alarms stand once: what domain/alarms defines is known to command line, page, messages and docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tocsin.cli.alarms import alarms as commands
from tocsin.domain.alarms import (
    ACTIVE,
    CLOSED,
    OPERATOR_ACTIONS,
    SEVERITIES,
    STATES,
    LifecycleState,
    OperatorAction,
    Severity,
    operator_action,
    rank,
    severity,
)
from tocsin.notify._lifecycle import Point, Policy
from tocsin.output.notify import _STYLES
from tocsin.serve.words import words

ROOT = Path(__file__).parent.parent.parent
PAGES = ROOT / "src" / "tocsin" / "serve" / "pages"
DOCS = (ROOT / "docs" / "page.md").read_text()
SCRIPTS = {path.name: path.read_text() for path in sorted(PAGES.glob("*.js"))}
STYLE = (PAGES / "style.css").read_text()


@pytest.mark.parametrize("state", STATES.values(), ids=lambda s: s.name)
def test_every_state_is_known_to_page_and_docs(state: LifecycleState) -> None:
    assert words()["STATES"][state.name] == state
    assert f"| `{state.name}` | {state.label} |" in DOCS, "write it into the table of docs/page.md"


@pytest.mark.parametrize("action", OPERATOR_ACTIONS, ids=lambda a: a.name)
def test_every_action_is_known_to_command_line_page_and_docs(action: OperatorAction) -> None:
    command: Any = commands
    for word in action.command.split():
        command = command.commands[word]
    assert (command.help or "").startswith(action.sentence)
    assert ("until" in {option.name for option in command.params}) == action.timed
    assert (action.asks in {option.name for option in command.params}) == bool(action.asks)
    assert (action in words()["ACTIONS"]) == bool(action.label)
    assert f"| `{action.name}` | `{action.command}` | {action.sentence} |" in DOCS, "write it into docs/page.md"
    assert operator_action(action.name) == operator_action(action.command) == action


@pytest.mark.parametrize("band", SEVERITIES, ids=lambda s: s.name)
def test_every_severity_is_known_to_page_style_messages_and_docs(band: Severity) -> None:
    assert band in words()["SEVERITIES"]
    for selector in (".tile", ".alarm", ".pill"):
        assert f'{selector}[data-severity="{band.name}"]' in STYLE
    assert STYLE.count(f"--{band.name}: #") == 2, "a colour for the dark page and one for the light page"
    assert _STYLES[band.name] == band.style
    assert f"| {band.shape} {band.name} | {band.least:.0f} |" in DOCS, "write it into the table of docs/page.md"


def test_a_new_state_and_a_new_severity_reach_the_page_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    from tocsin.serve import words as module

    muted = LifecycleState(name="MUTED", label="muted for a while", active=True)
    catastrophic = Severity(name="catastrophic", least=95, shape="★", style="bold white on red")
    monkeypatch.setattr(module, "STATES", {**STATES, "MUTED": muted})
    monkeypatch.setattr(module, "SEVERITIES", (*SEVERITIES, catastrophic))
    text = module.module().decode()
    assert "muted for a while" in text
    assert "catastrophic" in text


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_page_writes_no_word_a_second_time(name: str) -> None:
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", SCRIPTS[name], flags=re.DOTALL)
    code = code.replace('addEventListener("reset"', "")  # an event of the stream, no action
    literals = set(re.findall(r'"([^"\n]*)"', code))
    taken = {*STATES, *(band.name for band in SEVERITIES), *(action.name for action in OPERATOR_ACTIONS)}
    assert not literals & taken
    assert not re.search(r"UNACK|ACTIVE_|CLEARED_|LATCHED_", code), "no meaning is read out of a state's name"


def test_states_follow_each_other_within_what_is_defined() -> None:
    for state in STATES.values():
        following = (
            state.after_acknowledge,
            state.after_reset,
            state.after_clear,
            state.after_clear_latching,
        )
        assert set(following) - {""} <= set(STATES)
        assert bool(state.after_clear) == bool(state.after_clear_latching) == state.active
        assert state.unacknowledged == bool(state.after_acknowledge)
        assert state.open or not state.active
    assert set(ACTIVE) & set(CLOSED) == set()


@pytest.mark.parametrize("action", OPERATOR_ACTIONS, ids=lambda a: a.name)
@pytest.mark.parametrize("state", STATES)
def test_a_button_is_offered_only_where_the_alarm_takes_the_action(action: OperatorAction, state: str) -> None:
    if action.states and state not in action.states:
        return
    point, events = Point(state=state), []
    if action.ends:
        setattr(point, action.ends, True)  # shelved, suppressed or out_of_service
    point.assignee = "bob" if action.assigned else ""
    until = 200 if action.timed else None
    point.act(100, action.name, "ann", "seen", until, "bob", Policy(), lambda _, event: events.append(event))
    assert [event.name for event in events] != ["refused"]


def test_bands_begin_where_they_say() -> None:
    for band in SEVERITIES:
        assert severity(band.least) == band.name
    assert [rank(band.name) for band in SEVERITIES] == [1, 2, 3, 4]
    assert (rank(""), rank("unheard of")) == (0, 1)
