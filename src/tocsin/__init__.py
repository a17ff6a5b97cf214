"""tocsin listens to machines while they run: what is abnormal, what has stopped, what will fail.

import tocsin

pipeline = tocsin.load("humidity.yaml")          # or tocsin.Pipeline(name=..., source=..., streams=...)
for name, rows in tocsin.preview(pipeline):      # a sample after each step
    print(name, rows)
tocsin.run(pipeline)                             # to the end of its sources, or until Ctrl-C
tocsin.read("anomalies").to_pandas()             # a table as Arrow, from there to pandas or polars
tocsin.train("load.yaml")                        # a model from tables, as a version in the store
tocsin.explain(frame, target="failed")            # by what: three models beside each other
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Pipeline", "explain", "load", "preview", "query", "read", "run", "train"]

if TYPE_CHECKING:
    from tocsin.engine.api import preview, run
    from tocsin.lake.read import query, read
    from tocsin.models.explain import explain
    from tocsin.models.training import train
    from tocsin.pipeline.model import Pipeline
    from tocsin.pipeline.yamlfile import load

_WHERE = {
    "Pipeline": "tocsin.pipeline.model",
    "explain": "tocsin.models.explain",
    "load": "tocsin.pipeline.yamlfile",
    "preview": "tocsin.engine.api",
    "query": "tocsin.lake.read",
    "read": "tocsin.lake.read",
    "run": "tocsin.engine.api",
    "train": "tocsin.models.training",
}


def __getattr__(name: str) -> Any:
    # On demand, because `import tocsin` and `tocsin --help` should take no time.
    if name not in _WHERE:
        raise AttributeError(f"module 'tocsin' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
