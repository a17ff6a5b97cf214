"""What part of a job remembers, as bytes, with what each state is known by again.

A job whose pipeline was changed goes on from it: states that fit are kept, as `engine.fitting` has it for the embedded
engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tocsin.batch import ipc_stream
from tocsin.contracts import Checkpoint, Offset, StepState
from tocsin.engine.fitting import fit, is_set_aside, step_name
from tocsin.errors import StateMismatch
from tocsin.pipeline.plan import Plan, Print

_LENGTH_BYTES = 8
"""Of the number that says how long the head of a state is."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a start changes in what is remembered; the same one does so once."""

    id: str = ""
    """Of the start. A state that was written under it is as it is to be."""
    forget: tuple[str, ...] = ()
    """Steps that begin anew, and sources that are read anew."""


NO_CHANGE = Change()


class Remembered:
    """The states of steps by their ids, and what goes with them; written and read between any two batches."""

    def __init__(self, plan: Plan, change: Change = NO_CHANGE) -> None:
        self._plan, self._change, self._prints = plan, change, plan.prints()
        self._aside: dict[str, Print] = {}
        self.states: dict[str, bytes] = {}
        self.watermarks: Mapping[str, int] = {}
        self.offsets: Mapping[str, Offset] = {}
        self.rest: Mapping[str, Any] = {}
        """What whoever writes it has added."""

    def load(self, data: bytes) -> None:
        """Take up what was written, by this plan or by one before.

        Raises
        ------
        StateMismatch
            A step has changed so that its state does not fit, and nobody has said that it may be forgotten.
        """
        head, parts = unpacked(data)
        states = {id: StepState(id, "", *head["prints"][id]) for id in parts}
        forget = self._change.forget if head["change"] != self._change.id else ()
        fitted = fit(self._plan, Checkpoint(0, head["watermarks"], head["offsets"], states), forget)
        if (mismatch := fitted.mismatch(self._plan.state_folder)) is not None:
            raise StateMismatch(mismatch)
        kept = fitted.checkpoint
        self.states = {id: parts[state.place] for id, state in kept.states.items()}
        self._aside = {id: Print(one.fingerprint, one.settings) for id, one in kept.states.items() if is_set_aside(id)}
        self.watermarks, self.offsets, self.rest = kept.watermarks, kept.offsets, head["rest"]

    def get(self, id: str) -> pa.Table | None:
        """Returns the state of a step; None if it has none."""
        return pa.ipc.open_stream(self.states[id]).read_all() if id in self.states else None

    def tables(self) -> dict[str, pa.Table]:
        """Returns the states of all steps that are there."""
        return {id: table for id in self.states if not is_set_aside(id) and (table := self.get(id)) is not None}

    def put(self, id: str, state: pa.Table) -> None:
        """Remember the state of a step; without rows it has none, and its settings may change."""
        if state.num_rows:
            self.states[id] = ipc_stream(state.to_batches())
        else:
            self.states.pop(id, None)

    def dump(self, watermarks: Mapping[str, int], offsets: Mapping[str, Offset] | None = None, **rest: Any) -> bytes:
        """Returns all of it as bytes."""
        prints = {id: self._aside.get(id) or self._prints[step_name(id)] for id in self.states}
        head = {"prints": prints, "change": self._change.id, "watermarks": watermarks, "offsets": offsets or {}}
        return packed(head | {"rest": rest}, self.states)


def packed(head: Mapping[str, Any], parts: Mapping[str, bytes]) -> bytes:
    """Returns a head that is JSON, and parts by name, as bytes."""
    sizes = {name: len(data) for name, data in parts.items()}
    front = json.dumps({"head": head, "sizes": sizes}).encode()
    return b"".join([len(front).to_bytes(_LENGTH_BYTES, "big"), front, *parts.values()])


def unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The reverse of `packed`."""
    at = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    front = json.loads(data[_LENGTH_BYTES:at])
    parts = {}
    for name, size in front["sizes"].items():
        parts[name] = data[at : at + size]
        at += size
    return front["head"], parts
