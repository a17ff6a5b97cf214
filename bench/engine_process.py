"""An engine in a process of its own, for the benchmarks that kill it."""

from __future__ import annotations

import os
import sys

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.pipeline.plan import Plan


def engine(plan: Plan) -> int:
    """Returns the id of a process in which the plan runs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            EmbeddedRunner(plan).run()
            code = 0
        except BaseException as error:
            print(f"the engine gave up: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return child


def end(child: int, number: int) -> int:
    """Send a signal to an engine that still runs; returns its exit status once it has ended."""
    os.kill(child, number)
    return os.waitpid(child, 0)[1]
