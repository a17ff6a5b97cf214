"""SIGHUP while a pipeline runs: its file is read again, and if it is right, the engine goes on with it."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.fitting import fit_beforehand
from tocsin.errors import ConfigError, TocsinError
from tocsin.pipeline.model import Pipeline
from tocsin.pipeline.plan import Plan

logger = logging.getLogger(__name__)


class Reload:
    """Has the file checked as a start would, beside the running engine; only a file that is right stops it.

    ``load`` returns the file as it is now and its plan; it raises TocsinError where the file is wrong.
    """

    def __init__(self, load: Callable[[], tuple[Pipeline, Plan]]) -> None:
        self._load = load
        self._checking = threading.Lock()
        self._runs = threading.Event()
        self._runner: EmbeddedRunner | None = None
        self._taken: tuple[Pipeline, Plan] | None = None

    @contextmanager
    def on_signal(self) -> Iterator[None]:
        """Check on SIGHUP while this lasts; where the signal says that the terminal is gone, stop in order.

        Only the main thread gets signals. Where they are told to be ignored (nohup), that is left as it is.
        """
        in_main = threading.current_thread() is threading.main_thread()
        if sys.platform == "win32" or not in_main or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if sys.stdin is not None and sys.stdin.isatty():
                signal.raise_signal(signal.SIGTERM)
            else:
                threading.Thread(target=self._check, name="reload", daemon=True).start()

        before = signal.signal(signal.SIGHUP, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    @contextmanager
    def of(self, runner: EmbeddedRunner) -> Iterator[None]:
        """The runner to stop while this lasts."""
        self._runner = runner
        self._runs.set()
        try:
            yield
        finally:
            self._runs.clear()

    def taken(self) -> tuple[Pipeline, Plan] | None:
        """What the engine was stopped for, once; None if it has ended otherwise."""
        taken, self._taken = self._taken, None
        if taken is not None:
            logger.warning("%s goes on with its file as it is now", taken[1].name)
        return taken

    def _check(self) -> None:
        with self._checking:
            self._runs.wait()
            assert self._runner is not None
            name = self._runner.plan.name
            try:
                taken = self._load()
                _refuse(self._runner.plan, taken[1])
            except TocsinError as error:
                self._runner.counters.config_taken = False
                logger.error("%s goes on as it was, since its file cannot be taken: %s", name, error)
                return
            self._taken = taken
            self._runner.stop()


def _refuse(before: Plan, plan: Plan) -> None:
    """Raises ConfigError if the plan cannot go on where the one before stops."""
    if plan.state_folder != before.state_folder:
        raise ConfigError(f"its folder is now {plan.folder}; stop this one and start it there")
    fitted = fit_beforehand(plan)
    if fitted is not None and (mismatch := fitted.mismatch(plan.state_folder)) is not None:
        raise ConfigError(mismatch)
