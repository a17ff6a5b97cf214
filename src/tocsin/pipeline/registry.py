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
from tocsin.errors import ConfigError, UnknownName

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
    parts = {
        module.name: f"tocsin.{folder}.{module.name}"
        for folder in FOLDERS[kind]
        for module in pkgutil.iter_modules([str(root / folder)])
        if not module.name.startswith("_")
    }
    for point in _plugins().select(group=f"tocsin.{kind}"):
        if point.name in parts:
            raise ConfigError(
                f"{point.value} is registered as the {kind} '{point.name}', which there is already; uninstall its "
                "package, or register it under another name"
            )
        parts[point.name] = point.value
    return dict(sorted(parts.items()))


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
    if attribute:
        return _plugged_in(kind, name, known[name])
    module = import_module(module_name)
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


def adopt(part: Component) -> None:
    """Let a part that a plug-in's class has made go by the name that the class is registered under."""
    cls = type(part)
    if cls.__module__.partition(".")[0] != __name__.partition(".")[0]:
        value = f"{cls.__module__}:{cls.__qualname__}"
        for kind in FOLDERS:
            for point in _plugins().select(group=f"tocsin.{kind}", value=value):
                cls.REGISTERED = point.name


def _plugged_in(kind: str, name: str, value: str) -> type[Component]:
    """The class that an entry point names; it goes by the entry point's name from now on."""
    (point,) = (p for p in _plugins().select(group=f"tocsin.{kind}") if (p.name, p.value) == (name, value))
    try:
        cls = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the plug-in '{name}' ({value}) cannot be loaded ({error}); reinstall its package"
        ) from error
    if not (inspect.isclass(cls) and issubclass(cls, Component) and not inspect.isabstract(cls)):
        raise ConfigError(f"the plug-in '{name}' ({value}) is no part; its package must name a subclass of Component")
    cls.REGISTERED = name
    return cls
