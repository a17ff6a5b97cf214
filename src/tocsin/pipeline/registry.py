"""The file tree is the registry: a part's folder says its kind, its file's name is its name.

``detect/zscore.py`` holds the one component `zscore`. Files whose name begins with an underscore hold no part. A
plug-in registers under the entry-point group ``tocsin.<kind>``, for example ``tocsin.operator``.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tocsin.contracts import Component
from tocsin.errors import UnknownName

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "source": ("acquire",),
    "decoder": ("decode",),
    "operator": ("condition", "detect", "estimate", "notify"),
    "sink": ("output",),
}


@cache
def names(kind: str) -> Mapping[str, str]:
    """The parts of a kind: name to module. Imports none of them."""
    root = Path(__file__).parent.parent
    found = {
        module.name: f"tocsin.{folder}.{module.name}"
        for folder in FOLDERS[kind]
        for module in pkgutil.iter_modules([str(root / folder)])
        if not module.name.startswith("_")
    }
    found |= {point.name: point.value for point in _plugins().select(group=f"tocsin.{kind}")}
    return dict(sorted(found.items()))


@cache
def _plugins() -> Any:
    """Of all packages: looking through what is installed takes 10 ms."""
    return entry_points()


def find(kind: str, name: str) -> type[Component]:
    """The class of a part; `UnknownName` with what is close if there is none."""
    known = names(kind)
    if name not in known:
        raise UnknownName("step" if kind == "operator" else kind, name, known)
    module_name, _, attribute = known[name].partition(":")
    module = import_module(module_name)
    if attribute:
        return getattr(module, attribute)  # type: ignore[no-any-return]
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Component)
        and value.__module__.startswith(module_name)
        and value.name() == name
        and not inspect.isabstract(value)
    ]
    assert len(classes) == 1, f"{module_name} must hold one component, it holds {classes}"
    return classes[0]
