"""A Python worker outlives the TaskManager that a crash has taken: it ends itself, instead of holding its memory.

It may have been at work for a moment longer all the same; that does no harm, see `keeping`.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from contextlib import suppress

import psutil

LOOK_S = 1.0


@functools.cache
def end_with_taskmanager() -> None:
    """End this process, at once and without a word, when the one that started it has ended. Asked twice: as once."""
    script = psutil.Process(os.getppid())  # a shell script stands between
    taskmanager = script.ppid()

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while script.ppid() == taskmanager:
                time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="orphan", daemon=True).start()
