"""Import what stays for as long as the process, without the garbage collector looking through it."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from types import ModuleType


def load(name: str) -> ModuleType:
    """Returns a module, imported if need be with the garbage collector at rest.

    It would go through all that an import makes again and again, a tenth of a start, and none of that ever goes: it is
    told to leave it alone from then on. Where something else has switched it off it stays so.
    """
    if name in sys.modules or not gc.isenabled():
        return import_module(name)
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()
