"""Say that loops are being compiled: the first start on a machine waits for it, and must not look as if it hung."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from numba.core.dispatcher import Dispatcher
from numba.core.event import Event, Listener, register, unregister

if TYPE_CHECKING:
    from rich.progress import Progress

SAY_FROM = 3
"""From this loop on it is said: a few that meet new types are compiled at any start, in no time."""
QUIET_S = 1.0
"""Where nothing has been compiled for so long, the bar goes."""
COLLECT_AFTER = 100_000
"""While it compiles, garbage is looked for after so many new objects: after 700 it is a tenth of the time."""


class _Compiling(Listener):  # type: ignore[misc]
    """Hears of each loop that is compiled, within another one or by itself; one thread compiles at a time.

    A loop that is read from the cache is not heard of.
    """

    def __init__(self, name: str, bars: Progress | None) -> None:
        self.name, self.bars = name, bars
        self.begun = self.compiled = 0
        self.moved = threading.Event()
        self.is_over = False
        self.shown: threading.Thread | None = None
        self.collects = gc.get_threshold()

    def on_start(self, event: Event) -> None:
        if self.begun == self.compiled:
            self.collects = gc.get_threshold()
            gc.set_threshold(COLLECT_AFTER, *self.collects[1:])
        self.begun += 1
        self.moved.set()
        if self.begun == SAY_FROM:
            print(f"{self.name}: compiling for this processor, first start only", file=sys.stderr, flush=True)
            if self.bars is not None or sys.stderr.isatty():
                self.shown = threading.Thread(target=self._show, name="compiling", daemon=True)
                self.shown.start()

    def on_end(self, event: Event) -> None:
        self.compiled += 1
        if self.compiled == self.begun:
            gc.set_threshold(*self.collects)
        self.moved.set()

    def close(self) -> None:
        self.is_over = True
        self.moved.set()
        if self.shown is not None:
            self.shown.join()

    def _show(self) -> None:
        """Draw a bar until nothing has been compiled for a while."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        with ExitStack() as stack:
            if (bars := self.bars) is None:
                text = TextColumn("{task.description}")
                bars = stack.enter_context(Progress(text, BarColumn(), console=Console(stderr=True), transient=True))
            bar = bars.add_task("compiling", total=None, rows=0)
            while (self.moved.wait(QUIET_S) or self.compiled < self.begun) and not self.is_over:
                self.moved.clear()
                done = f"compiling: {self.compiled} of about {max(loops(), self.begun)} loops"
                bars.update(bar, description=done, completed=self.compiled, total=max(loops(), self.begun))
            bars.remove_task(bar)


def loops() -> int:
    """Returns how many loops there are in the parts that are loaded: about as many are compiled."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("tocsin.")]
    return len({id(one) for module in modules for one in list(vars(module).values()) if isinstance(one, Dispatcher)})


@contextmanager
def told(name: str, bars: Progress | None = None) -> Iterator[None]:
    """Say once when loops are compiled, with a bar on a terminal, among ``bars`` where there are some."""
    listener = _Compiling(name, bars)
    register("numba:compile", listener)
    try:
        yield
    finally:
        unregister("numba:compile", listener)
        listener.close()
