"""An embedded engine in a process of its own, which is killed by SIGKILL in the middle of writing, at a known place."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tocsin.engine import source_task
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.recovery import Effects
from tocsin.output.delta import Delta
from tocsin.pipeline import registry
from tocsin.pipeline.plan import Plan, SinkNode
from tocsin.pipeline.yamlfile import load_with_plan
from tocsin.world import SystemDisk

ROWS = 25
"""In a batch: so that there is much to interrupt."""
LIFE_S = 120.0


class Deadly(SystemDisk):
    """A disk whose process dies, as by kill -9, when it is about to write for so many times."""

    def __init__(self, writes: int | None) -> None:
        super().__init__()
        self._left = writes

    def _count(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def write(self, path: Path, data: Any) -> None:
        self._count()
        super().write(path, data)

    def append(self, path: Path, data: Any) -> None:
        self._count()
        super().append(path, data)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        self._count()
        super().link(old, new)


def forget_packages() -> None:
    """Let it be looked anew which packages there are with parts of their own."""
    for cached in (registry.names, registry._plugins):
        cached.cache_clear()


def in_tables(plan: Plan) -> Plan:
    """Returns the plan with a table in the place of each sink that is none, and of each channel: what reaches it."""
    return replace(plan, sinks=tuple(map(_in_table, plan.sinks)))


def _in_table(target: SinkNode) -> SinkNode:
    return target if isinstance(target.part, Delta) else replace(target, part=Delta(path=target.id))


def _live(plan: Plan, writes: int | None) -> None:
    """One life, in a process of its own."""
    # Nothing is held back for the checkpoint, so that all is written as it would be in a large plant.
    EmbeddedRunner(plan, Effects(disk=Deadly(writes), held_bytes=0)).run()


def _serve(requests: Connection) -> None:
    """Read plans, and fork a process for each life: this one has imported all that they need, and starts no threads."""
    source_task.ROWS_MAX = ROWS
    while True:
        file, folder, directory, environment, path, lives = requests.recv()
        os.chdir(directory)
        os.environ.update(environment)
        sys.path[:] = path
        forget_packages()
        plan = in_tables(load_with_plan(file, {"folder": str(folder), "checkpoint": "1ms"})[1])
        for writes in lives:
            if (child := os.fork()) == 0:
                _live(plan, writes)
                os._exit(0)
            requests.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


class Engines:
    """Where embedded engines live and die."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._requests, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()

    def live(self, file: Path, folder: Path, lives: Sequence[int | None]) -> list[int]:
        """Run a pipeline again and again, each time until it dies after so many writes; returns how each life ended."""
        self._requests.send((file, folder, Path.cwd(), dict(os.environ), sys.path, lives))
        ends = []
        for writes in lives:
            assert self._requests.poll(LIFE_S), f"it hangs after {writes} writes"
            ends.append(self._requests.recv())
        return ends

    def close(self) -> None:
        self._process.kill()
        self._process.join()
