"""Start an engine as a person does: with its page beside it, progress where there is an end, and a clean Ctrl-C."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from tocsin.batch import LATE
from tocsin.cli import compiling, set_aside
from tocsin.cli.reload import Reload
from tocsin.cli.summary import summary
from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.feed import SOCKET, PageFeed
from tocsin.engine.trouble import disk_trouble
from tocsin.engine.wire import streams_of
from tocsin.errors import TocsinError, Undelivered, Unwritten
from tocsin.pipeline.plan import Plan, Port, SinkNode

if TYPE_CHECKING:
    from rich.progress import Progress

    from tocsin.serve.access import Address

PROGRESS_EVERY_S = 0.5


def launch(
    plan: Plan,
    streams: Collection[str] = (),
    address: Address | None = None,
    forget: Collection[str] | str = (),
    reload: Reload | None = None,
) -> Mapping[str, Any]:
    """Run a plan to the end of its sources or until a signal; returns what has been counted.

    ``streams`` are those that the page shows (all if none is named); there is a page if it has an address.
    ``forget`` names steps that start anew, see `engine.fitting`. ``reload`` stops it for a changed file.
    """
    try:
        plan.state_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_trouble(error, plan.state_folder) from error
    with ExitStack() as stack:
        feed = None
        if address is not None:
            feed = stack.enter_context(closing(PageFeed(plan.state_folder / SOCKET, streams=set(streams) or None)))
        runner = EmbeddedRunner(plan, feed=feed, forget=forget)
        beside = _progress(runner) if address is None else _page(plan, streams, address, runner)
        reloaded = nullcontext() if reload is None else reload.of(runner)
        told = set_aside.told(plan, runner.counters)
        with _told_at_the_end(runner), beside as bars, compiling.told(plan.name, bars), told, reloaded:
            runner.run()
        _tell_late(plan, runner)
        if _bounded(plan):
            set_aside.refuse_nothing(plan, runner.counters)
        return runner.snapshot()


def _tell_late(plan: Plan, runner: EmbeddedRunner) -> None:
    """Say how many rows came too late for windows and alarms, and where they are."""
    for (id, port), count in runner.counters.rows_out.items():
        if port != LATE or not count:
            continue
        if any(step.id == id and step.late for step in plan.steps):
            continue
        ends = _ends(plan, (id, port))
        marked = [end.id.partition(".")[0] for end in ends if end.marks_late]
        if marked:
            where = f"kept in '{marked[0]}' with late: true"
        else:
            table = ends[0].id.partition(".")[0] if ends else ""
            where = f"kept in '{table}'" if table else "handed on to the streams that ask for them"
        rows = "row" if count == 1 else "rows"
        print(
            f"{plan.name}: {count:,} {rows} of '{id}' came too late for windows and alarms: {where}. "
            "A longer lateness under time: waits for such rows, keys_apart judges each machine by itself",
            file=sys.stderr,
            flush=True,
        )


def _ends(plan: Plan, port: Port) -> list[SinkNode]:
    """Where the late rows of a port are kept: at once, or behind steps that they pass."""
    passed = [ends for step in plan.steps if port in step.late for ends in _ends(plan, (step.id, LATE))]
    return [*(end for end in plan.sinks if port in end.inputs), *passed]


def _bounded(plan: Plan) -> bool:
    return all(origin.source.bounded() for origin in plan.sources)


@contextmanager
def _told_at_the_end(runner: EmbeddedRunner) -> Iterator[None]:
    """Say what a run has done whose sources have an end, also where rows or messages wait at the end."""
    try:
        yield
    except (Unwritten, Undelivered):
        print(summary(runner.plan, runner.snapshot()), file=sys.stderr, flush=True)
        raise
    if _bounded(runner.plan):
        print(summary(runner.plan, runner.snapshot()), file=sys.stderr, flush=True)


@contextmanager
def _page(plan: Plan, streams: Collection[str], address: Address, runner: EmbeddedRunner) -> Iterator[None]:
    """The page in a process of its own; it starts while the engine does. Without its page the engine stops."""
    served = []
    failed = []

    def serve() -> None:
        from tocsin.serve.app import start
        from tocsin.serve.naming import plant_of
        from tocsin.serve.outline import outline

        try:
            shown = streams_of(plan, streams)
            running = start(
                plan.state_folder, plan.folder, address, title=plan.name, streams=shown, plant=plant_of(plan),
                outline=outline(plan),
            )  # fmt: skip
            served.append(running)
            print(f"{plan.name}: the page is at {served[0].url}", file=sys.stderr, flush=True)
        except TocsinError as error:
            failed.append(error)
            runner.stop()

    thread = threading.Thread(target=serve, name="page")
    thread.start()
    try:
        yield
    finally:
        thread.join()
        for one in served:
            one.stop()
    if failed:
        raise failed[0]


@contextmanager
def _progress(runner: EmbeddedRunner) -> Iterator[Progress | None]:
    """A bar of bytes done, on a terminal and where there is an end."""
    if not sys.stderr.isatty() or not _bounded(runner.plan):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    ended = threading.Event()
    text = TextColumn("{task.description} {task.fields[rows]:,} rows")
    bars = Progress(text, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
    bar = bars.add_task(runner.plan.name, total=None, rows=0)

    def show() -> None:
        while not ended.wait(PROGRESS_EVERY_S):
            done, total = runner.progress() or (0, None)
            bars.update(bar, completed=done, total=total, rows=sum(runner.counters.rows_in.values()))

    thread = threading.Thread(target=show, name="progress")
    with bars:
        thread.start()
        try:
            yield bars
        finally:
            ended.set()
            thread.join()
            rows = sum(runner.counters.rows_in.values())
            bars.update(bar, completed=1, total=1, rows=rows)
