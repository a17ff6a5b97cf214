"""An engine that runs beside a test, for a block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.pipeline.plan import Plan


@contextmanager
def running_engine(plan: Plan) -> Iterator[tuple[EmbeddedRunner, list[BaseException]]]:
    """Runs a plan in a thread; gives the block the runner, and what it has failed of: nothing, at the end."""
    runner = EmbeddedRunner(plan)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            runner.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield runner, failed
    finally:
        runner.stop()
        thread.join(60)
    assert not failed, failed[0]
