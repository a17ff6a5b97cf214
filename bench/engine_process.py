"""An engine in a process of its own, for the benchmarks that kill it."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.pipeline.plan import Plan

READY_S = 120.0
"""So long an engine may take until it reads its sources; one that takes longer hangs."""


def engine(plan: Plan, ready: int | None = None) -> int:
    """Returns the id of a process in which the plan runs; it writes to the pipe ``ready`` once it reads its sources."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            runner = EmbeddedRunner(plan)
            if ready is not None:
                threading.Thread(target=_tell, args=(runner, ready), daemon=True).start()
            runner.run()
            code = 0
        except BaseException as error:
            print(f"the engine gave up: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return child


def ready_engine(plan: Plan) -> int:
    """Returns the id of a process in which the plan runs, once it reads its sources."""
    read, write = os.pipe()
    child = engine(plan, write)
    os.close(write)
    told = bool(select.select([read], [], [], READY_S)[0])
    os.close(read)
    if not told:
        end(child, signal.SIGKILL)
        raise SystemExit(f"the engine does not read its sources after {READY_S:g} s")
    return child


def _tell(runner: EmbeddedRunner, ready: int) -> None:
    while not (sources := runner.snapshot()["sources"]) or not all(one["splits"] for one in sources.values()):
        time.sleep(0.005)
    os.write(ready, b"1")


def end(child: int, number: int) -> int:
    """Send a signal to an engine that still runs; returns its exit status once it has ended."""
    os.kill(child, number)
    return os.waitpid(child, 0)[1]
