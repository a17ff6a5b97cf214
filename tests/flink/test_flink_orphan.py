"""A worker ends when the process that started it has been killed."""

from __future__ import annotations

import subprocess
import sys

import psutil

WORKER = """
import time
from tocsin.flink.orphan import end_with_taskmanager
end_with_taskmanager()
print("here", flush=True)
time.sleep(60)
"""
SCRIPT = "import subprocess, sys; subprocess.run(sys.argv[1:])"
TASKMANAGER = f"""
import subprocess, sys
command = [sys.executable, "-c", {SCRIPT!r}, sys.executable, "-c", {WORKER!r}]
subprocess.run(command)
"""


def test_a_worker_ends_with_its_taskmanager() -> None:
    with subprocess.Popen([sys.executable, "-c", TASKMANAGER], stdout=subprocess.PIPE, text=True) as taskmanager:
        assert taskmanager.stdout is not None
        assert taskmanager.stdout.readline() == "here\n"
        processes = psutil.Process(taskmanager.pid).children(recursive=True)
        assert len(processes) == 2
        taskmanager.kill()
    assert psutil.wait_procs(processes, timeout=20)[1] == []
