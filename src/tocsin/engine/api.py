"""`run` and `preview` for Python: a pipeline, or the path of its file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from tocsin.engine.embedded import EmbeddedRunner
from tocsin.engine.preview import preview as preview_plan
from tocsin.pipeline.model import Pipeline
from tocsin.pipeline.yamlfile import load


def run(pipeline: Pipeline | Path | str, forget: Collection[str] | str = ()) -> None:
    """Run to the end of the sources, or until a signal; started again it goes on exactly where it was.

    ``forget`` names steps that start anew (``["hot.0.window"]``), or is ``"changed"``: all those whose state no longer
    fits their settings. Without it such a change raises `StateMismatch`. Everything else always goes on.
    """
    EmbeddedRunner(_pipeline(pipeline).plan(), forget=forget).run()


def preview(pipeline: Pipeline | Path | str, rows: int = 1_000, wait_s: float = 10.0) -> Iterator[tuple[str, pa.Table]]:
    """A sample of the rows after each step, as (place, rows)."""
    return preview_plan(_pipeline(pipeline).plan(), rows, wait_s)


def _pipeline(pipeline: Pipeline | Path | str) -> Pipeline:
    return pipeline if isinstance(pipeline, Pipeline) else load(pipeline)
