"""Say at once when most of what comes is set aside, with the commonest reason; end with an error if all was."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tocsin.batch import LATE, OUT, REJECTED
from tocsin.engine.counters import Counters
from tocsin.errors import NothingKept
from tocsin.pipeline.plan import Plan

LOOK_EVERY_S = 0.25
LOOK = 'tocsin query "select reason, detail, count(*) from quarantine group by 1, 2"'


@contextmanager
def told(plan: Plan, counters: Counters) -> Iterator[None]:
    """Watch what a running engine sets aside, and warn once as soon as that is more than half."""
    ended = threading.Event()

    def watch() -> None:
        while True:
            is_last = ended.wait(LOOK_EVERY_S)
            seen, aside = _seen(plan, counters)
            if 2 * aside > seen:
                print(f"{plan.name}: {_sentence(seen, aside, counters)}", file=sys.stderr, flush=True)
                return
            if is_last:
                return

    thread = threading.Thread(target=watch, name="set-aside")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def refuse_nothing(plan: Plan, counters: Counters) -> None:
    """Raises `NothingKept` where a run kept no row, because most were set aside."""
    seen, aside = _seen(plan, counters)
    into = dict(counters.rows_into)
    kept = sum(into.get(end.id, 0) for end in plan.sinks if {port for _, port in end.inputs} != {REJECTED})
    if 2 * aside > seen and not kept:
        raise NothingKept(
            f"no row was kept: {_reason(counters)}. Look: {LOOK} --folder {plan.folder}; once it is mended, another "
            "folder: in the file lets all be read again"
        )


def _seen(plan: Plan, counters: Counters) -> tuple[int, int]:
    """Returns how many rows came out of the sources, good ones or not, and how many were set aside, there or later."""
    out, rejected = dict(counters.rows_out), dict(counters.rejected)
    aside = sum(rejected.values())
    origins = {origin.id for origin in plan.sources}
    at_the_sources = sum(count for (id, _), count in rejected.items() if id in origins)
    return at_the_sources + sum(out.get((id, port), 0) for id in origins for port in (OUT, LATE)), aside


def _reason(counters: Counters) -> str:
    reasons: Counter[tuple[str, str]] = Counter(dict(counters.rejected))
    (id, reason), _ = reasons.most_common(1)[0]
    detail = counters.details.get((id, reason), "")
    return f"{reason} at '{id}'" + (f" ({detail})" if detail else "")


def _sentence(seen: int, aside: int, counters: Counters) -> str:
    return f"{aside:,} of {seen:,} rows are set aside, most for {_reason(counters)}. Look: {LOOK}"
