"""Start an engine as a person does: with its page beside it, progress where there is an end, and a clean Ctrl-C."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Mapping
from typing import Any

from tocsin.plan import Plan
from tocsin.run.embedded import EmbeddedRunner
from tocsin.serve.access import Address

PROGRESS_EVERY_S = 0.5


def launch(plan: Plan, streams: Collection[str] = (), page: Address | None = None) -> Mapping[str, Any]:
    """Run a plan to the end of its sources or until a signal; returns what has been counted.

    ``streams`` are those that the page shows (all if none is named); there is a page if it has an address.
    """
    feed = served = None
    plan.state_folder.mkdir(parents=True, exist_ok=True)
    if page is not None:
        from tocsin.run.feed import SOCKET, Feed
        from tocsin.serve.app import start

        served = start(plan.state_folder, plan.folder, page, title=plan.name, streams=streams)
        feed = Feed(plan.state_folder / SOCKET, streams=set(streams) or None)
        print(f"{plan.name}: the page is at {served.url}", file=sys.stderr, flush=True)  # noqa: T201
    runner = EmbeddedRunner(plan, feed=feed)
    ended = threading.Event()
    progress = None
    if sys.stderr.isatty() and all(inlet.source.bounded() for inlet in plan.inlets):
        progress = threading.Thread(target=_progress, args=(runner, ended), daemon=True)
        progress.start()
    try:
        runner.run()
    finally:
        ended.set()
        if progress is not None:
            progress.join()
        if feed is not None:
            feed.close()
        if served is not None:
            served.stop()
    return runner.snapshot()


def _progress(runner: EmbeddedRunner, ended: threading.Event) -> None:
    """A bar of bytes done where the sources can tell, else a count of rows."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(runner.plan.name, total=None)
        while not ended.wait(PROGRESS_EVERY_S):
            counted = runner.snapshot()
            done, total = runner.progress() or (sum(counted["rows_in"].values()), None)
            bars.update(bar, completed=done, total=total)
