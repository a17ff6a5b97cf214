"""Two epochs written by a writer to an address, which is killed before and behind each step, and then goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from tocsin.contracts import Token
from tocsin.testing import rows
from tocsin.testing.simulated import Crash, PowerCut, SimulatedWorld
from tocsin.world import World

_NUMBERS = count()
EPOCHS = (1, 2)


def batch(epoch: int) -> pa.RecordBatch:
    return rows({"key": ["pump"] * 3, "value": [float(10 * epoch + i) for i in range(3)]})


EXPECTED = Counter(float(10 * epoch + i) for epoch in EPOCHS for i in range(3))


class Stepping:
    """A store, or a table, before and behind each of whose calls the process may be killed."""

    def __init__(self, inner: Any, simulated: SimulatedWorld) -> None:
        self._inner, self._simulated = inner, simulated

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._inner, name)

        def stepped(*arguments: Any) -> Any:
            self._simulated.io(f"before {name}")
            answer = method(*arguments)
            answer = iter(list(answer)) if isinstance(answer, Iterator) else answer
            self._simulated.io(f"behind {name}")
            return answer

        return stepped


def live(writer: Any, committed: dict[int, Token], *, gathers: bool = False) -> None:
    """One life of an engine: finish what was committed, then the epochs that are not; or all of it at once."""
    done = writer.published() or 0
    writer.discard(list(committed.values()))
    if gathers:
        committed |= {epoch: writer.stage(epoch, [batch(epoch)]) for epoch in EPOCHS if epoch not in committed}
    waiting = {epoch: token for epoch, token in committed.items() if epoch > done}
    if waiting:
        writer.publish(max(waiting), list(waiting.values()))
    for epoch in EPOCHS:
        if epoch not in committed:
            committed[epoch] = writer.stage(epoch, [batch(epoch)])
            writer.publish(epoch, [committed[epoch]])


def crashed_at_every_step(
    opened: Callable[[World, SimulatedWorld, str], Any], *, cuts_power: bool, every: int = 1
) -> Iterator[str]:
    """Yields the table of each life that was killed at one more step (or at every third ...), and then went on."""
    for step in range(1, 1_000, every):
        simulated, table = SimulatedWorld(seed=step, faults=0), f"crash{next(_NUMBERS)}"
        place = simulated.part(Path("/data"), "test/part")
        simulated.disk.make_folder(Path("/data"))
        simulated.crash_at, simulated.cuts_power = step, cuts_power
        committed: dict[int, Token] = {}
        try:
            live(opened(place, simulated, table), committed)
        except PowerCut:
            simulated.disk.power_cut()
        except Crash:
            pass
        else:
            assert step > 20, "hardly any step was tried"
            return
        simulated.boot()
        live(opened(place, simulated, table), committed, gathers=not cuts_power)
        yield table
