"""A Python worker outlives the TaskManager that a crash has taken: it ends itself, instead of holding its memory.

It may have been at work for a moment longer all the same; that does no harm, see `keeping`.
"""

from __future__ import annotations

import functools
import os
import threading
import time

import psutil

LOOK_S = 1.0


@functools.cache
def end_with_taskmanager() -> None:
    """End this process, at once and without a word, when the TaskManager has ended. Asked twice: as once.

    Not when only the shell script between them has: that is how a TaskManager ends a worker that it is about to close.
    """
    taskmanager = psutil.Process(psutil.Process(os.getppid()).ppid())

    def watch() -> None:
        while taskmanager.is_running():
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="orphan", daemon=True).start()
