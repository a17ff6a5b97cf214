"""What a plan can use of a checkpoint: states are matched to steps, then kept, brought back, set aside or forgotten.

A step is known by its stream, its name and its settings, not by its place: a step put before others leaves them alone.
A state that fits no step any more is not thrown away but set aside, under an id that begins with ``@``; where the step
comes back as it was, so does its state. Only the state that was set aside last is kept for each stream and name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tocsin.batch import START
from tocsin.contracts import Checkpoint, StepState
from tocsin.engine.checkpoint import peek
from tocsin.errors import UnknownName
from tocsin.pipeline.plan import Plan, Print

CHANGED = "changed"
"""Instead of the names of steps to forget: all whose state does not fit."""


@dataclass(slots=True)
class Fit:
    """A checkpoint in the words of a plan, and what became of each step's state (steps by their names)."""

    checkpoint: Checkpoint
    kept: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    """Set aside before, and back now: the step is again as it was."""
    forgotten: set[str] = field(default_factory=set)
    """As was asked for."""
    changed: set[str] = field(default_factory=set)
    """The state does not fit, and nobody has said that it may be forgotten."""
    removed: set[str] = field(default_factory=set)
    """The step is no longer there."""

    def mismatch(self, folder: Path) -> str | None:
        """Returns what would be forgotten unasked, and the remedies; None if nothing would."""
        if not self.changed:
            return None
        names = sorted(self.changed)
        return (
            f"what {_listed(names)} remembered in {folder} does not fit the settings or columns of now; to forget that "
            f"and keep all else, run with {' '.join(f'--forget {name}' for name in names)} (or --forget-changed; in "
            f"Python run(..., forget={names})); to keep it, undo the change"
        )

    def sentences(self) -> Iterator[str]:
        """What is worth telling before the start."""
        if self.returned:
            yield f"{_listed(self.returned)} goes on with what it remembered before it was changed or removed"
        if self.removed:
            yield f"{_listed(self.removed)} is no longer there: what it remembered is set aside, in case it comes back"
        if self.forgotten:
            yield f"{_listed(self.forgotten)} starts anew; everything else goes on"


def fit(plan: Plan, last: Checkpoint, forget: Collection[str] | str = ()) -> Fit:
    """Returns the checkpoint as the plan goes on from it.

    ``forget`` names steps that start anew, and sources to be read anew, or is `CHANGED`: then all positions are kept.
    """
    return _Fitting(plan, last, forget).fit()


def fit_beforehand(plan: Plan) -> Fit | None:
    """Returns what a start would make of the last checkpoint, beside an engine that may run; None if there is none."""
    last = peek(plan.state_folder)
    return None if last is None else fit(plan, last)


def step_name(id: str) -> str:
    """Returns the name by which people know the step of a state: ``hot.0.window``, or ``source.rekey``."""
    return f"{id.partition('/')[0]}.{id.rpartition('/')[2]}" if "/" in id else id


def is_set_aside(id: str) -> bool:
    """Returns whether a state in a checkpoint belongs to no step for now."""
    return id.startswith("@")


class _Fitting:
    def __init__(self, plan: Plan, last: Checkpoint, forget: Collection[str] | str) -> None:
        self.prints = plan.prints()
        self.last = last
        self.all_changed = forget == CHANGED
        self.forget = set() if self.all_changed else {forget} if isinstance(forget, str) else set(forget)
        sources = {origin.id for origin in plan.sources if origin.source.REPLAYABLE}
        for name in self.forget:
            if name not in self.prints and name not in sources:
                raise UnknownName("step or source to forget", name, [*self.prints, *sources])
        self.anew = self.forget & sources
        """Sources that are read from their beginning again."""
        self.plan = plan
        self.states: dict[str, StepState] = {}
        self.aside = {id: state for id, state in last.states.items() if is_set_aside(id)}
        self.newly_aside: dict[str, StepState] = {}
        self.fitted = Fit(last)

    def fit(self) -> Fit:
        places = self._matched()
        for old, new in places.items():
            self._settle(old, new, self.last.states.get(old))
        for step in self.plan.steps:
            if step.id not in places.values():
                self._settle(None, step.id, None)
        for old in self._old_steps() - places.keys():
            self._put_aside(old, self.last.states.get(old))
        for id, state in self.last.states.items():
            if "/" in id and not is_set_aside(id) and not self._is_anew(id):
                self._chain(id, state)
        self.fitted.forgotten |= self.anew
        fresh = {id.partition("/")[2] for id in self.newly_aside}
        aside = {id: state for id, state in self.aside.items() if id.partition("/")[2] not in fresh}
        self.fitted.checkpoint = replace(
            self.last,
            states={**aside, **self.newly_aside, **self.states},
            watermarks=self._watermarks(places),
            offsets={id: offset for id, offset in self.last.offsets.items() if not self._is_anew(id)},
        )
        return self.fitted

    def _is_anew(self, id: str) -> bool:
        """Return whether this is of a split whose source is read anew."""
        return id.partition("/")[0] in self.anew and "/" in id

    def _old_steps(self) -> set[str]:
        """Ids of the steps that wrote the checkpoint: ``id<`` is the watermark that had reached one."""
        ids = {id for id in self.last.states if "/" not in id and not is_set_aside(id)}
        return ids | {id[:-1] for id in self.last.watermarks if id.endswith("<")}

    def _matched(self) -> dict[str, str]:
        """Steps of before with the step of now that each is: the same stream and name, the settings decide."""
        old, new = defaultdict(list), defaultdict(list)
        for id in sorted(self._old_steps(), key=_position):
            old[_family(id)].append(id)
        for step in self.plan.steps:
            new[_family(step.id)].append(step.id)
        places: dict[str, str] = {}
        for family, ids in old.items():
            states = {id: self.last.states.get(id) for id in ids}
            left = new.get(family, [])
            for same in (_same_settings, _same_shape, _whatever):
                for id in ids:
                    state = states[id]
                    match = next((n for n in left if id not in places and same(state, self.prints[n])), None)
                    if match is not None:
                        places[id] = match
                        left.remove(match)
        return places

    def _settle(self, old: str | None, new: str, state: StepState | None) -> None:
        """Decide what the step goes on with."""
        label = step_name(new)
        now = self.prints[label]
        told = self.fitted
        fits = state is not None and state.fingerprint in ("", now.fingerprint)
        aside = self.aside.pop(_id_aside(new, now.fingerprint), None)
        if label in self.forget:
            if state is not None and not fits:
                self._put_aside(old or new, state, told=False)
            told.forgotten.add(label)
        elif fits:
            assert state is not None
            self.states[new] = state._replace(fingerprint=now.fingerprint, settings=now.settings)
            told.kept.add(label)
        elif aside is not None:
            self._put_aside(old or new, state, told=False)
            self.states[new] = aside._replace(settings=now.settings)
            told.returned.add(label)
        elif state is not None and self.all_changed:
            self._put_aside(old or new, state, told=False)
            told.forgotten.add(label)
        elif state is not None:
            told.changed.add(label)

    def _chain(self, id: str, state: StepState) -> None:
        """A state of one split's decoder, `rekey` or `event_time`."""
        split, _, name = id.rpartition("/")
        origin = next((origin for origin in self.plan.sources if origin.id == id.partition("/")[0]), None)
        if origin is not None and name.isdigit() and int(name) < len(origin.chain):
            name = origin.chain[int(name)].name()  # a version before counted them
        new = f"{split}/{name}"
        if step_name(new) in self.prints:
            self._settle(id, new, state)
        else:
            self._put_aside(id, state)

    def _put_aside(self, id: str, state: StepState | None, told: bool = True) -> None:
        if state is not None:
            self.newly_aside[_id_aside(id, state.fingerprint)] = state
            if told:
                self.fitted.removed.add(step_name(id))

    def _watermarks(self, places: Mapping[str, str]) -> dict[str, int]:
        """Those of splits and sources as they are, those of steps under the ids of now."""
        gone = self._old_steps()
        kept = {
            id: us
            for id, us in self.last.watermarks.items()
            if id.partition("<")[0] not in gone and id.partition("/")[0] not in self.anew
        }
        if self.anew:  # time begins again, or all rows would be late
            return kept
        for old, new in places.items():
            for end in ("", "<"):
                kept[new + end] = self.last.watermarks.get(old + end, START)
        return kept


def _family(id: str) -> str:
    """Stream and name of a step's id ``stream.0.name``; of a chain's ``source/split/name`` all of it."""
    stream, _, rest = id.partition(".")
    place, _, name = rest.partition(".")
    return f"{stream}.{name}" if place.isdigit() and "/" not in id else id


def _id_aside(id: str, fingerprint: str) -> str:
    return f"@{fingerprint}/{_family(id)}"


def _position(id: str) -> tuple[int, str]:
    place = id.split(".", 2)[1:2]
    return (int(place[0]) if place and place[0].isdigit() else 0, id)


def _same_settings(state: StepState | None, now: Print) -> bool:
    return state is not None and (state.fingerprint, state.settings) == now


def _same_shape(state: StepState | None, now: Print) -> bool:
    return state is not None and state.fingerprint == now.fingerprint


def _whatever(state: StepState | None, now: Print) -> bool:
    return True


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
