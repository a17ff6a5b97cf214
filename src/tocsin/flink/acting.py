"""What operators do with alarms, as a reader of the job: every group hears of it, and takes what is for its keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from tocsin.batch import ipc_stream
from tocsin.contracts import Offset
from tocsin.engine.actions import Actions
from tocsin.engine.recovery import ACTIONS_SPLIT
from tocsin.engine.remembered import Remembered
from tocsin.flink.elements import ACT, DONE, Element
from tocsin.pipeline.plan import Plan
from tocsin.world import World

ACTIONS_MAX = 1_000
"""Of one poll."""


def takes_actions(plan: Plan) -> bool:
    """Returns whether a step listens to what operators do."""
    return any(step.operator.ACCEPTS_ACTIONS for step in plan.steps)


class Acting:
    """The log of actions being read; its state is bytes, as that of `reading.Reading`.

    No run waits for it: all that is there is read at once, and what comes later is read while the job goes on.
    """

    behind = False
    """What operators do is little."""
    finished = False
    """There may always be more."""

    def __init__(self, number: int, plan: Plan, world: World, groups: int, run: str, remembered: Remembered) -> None:
        self._number, self._groups, self._run, self._remembered = number, groups, run, remembered
        self._offset: Offset = remembered.offsets.get(ACTIONS_SPLIT)
        self._done_in: str | None = remembered.rest.get("done_in")
        with closing(Actions(state_folder=plan.state_folder).open(world)) as connection:
            (split,) = connection.splits()
            self._reader = connection.read(split, self._offset)

    def poll(self) -> Iterator[Element]:
        """Take what has come: elements for the groups, in order."""
        if (polled := self._reader.poll(ACTIONS_MAX, 0.0)) is not None:
            batch, self._offset = polled
            data = ipc_stream([batch.rows])
            yield from (Element(group, ACT, self._number, data) for group in range(self._groups))
        elif self._done_in != self._run:
            self._done_in = self._run
            yield from (Element(group, DONE, self._number) for group in range(self._groups))

    def dump(self) -> bytes:
        """Returns all that is remembered."""
        return self._remembered.dump({}, {ACTIONS_SPLIT: self._offset}, done_in=self._done_in)

    def close(self) -> None:
        self._reader.close()
