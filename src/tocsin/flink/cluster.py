"""A small Flink cluster on this machine, out of what pip installs: for trying, and for tests."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tocsin.errors import ConfigError, TocsinError
from tocsin.flink.distribution import BRIEF, environment, flink_home, link_jars
from tocsin.flink.rest import Rest

UP_S = 300.0
"""So long the processes may take to answer: on a machine that is busy with much else 90 s were not enough."""
DOWN_S = 20.0
CLOCK_S = 5.0
"""By so much the same process may seem to have begun at another time, where the clock was set."""
LOGGED_WHOLE = 20
"""Lines of a log to show where a process has ended by itself."""


class Cluster:
    """A JobManager and its TaskManagers, in a folder: configuration, logs, process ids."""

    def __init__(self, folder: Path, port: int = 8081) -> None:
        self.folder, self.port = folder.absolute(), port
        self.rest = Rest(f"127.0.0.1:{port}")

    def up(self, taskmanagers: int = 1, slots: int = 2) -> None:
        """Start what is not running, and wait until it answers."""
        for name in ("conf", "log", "pids", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        link_jars(self.folder / "lib")
        self._configure(slots)
        self._start("jobmanager")
        for number in range(taskmanagers):
            self._start(f"taskmanager-{number}")
        until_s = time.monotonic() + UP_S
        while self.rest.slots() < taskmanagers * slots:
            if dead := [name for name in self._wanted(taskmanagers) if self.process(name) is None]:
                raise TocsinError(f"the {dead[0]} has ended by itself:\n{self._tail(dead[0])}")
            if time.monotonic() > until_s:
                raise TocsinError(f"the cluster does not answer within {UP_S:g} s; its logs are in {self.folder}/log")
            time.sleep(0.2)

    def down(self) -> list[str]:
        """End all processes; returns their names."""
        running = {name: one for name in self.names() if (one := self.process(name)) is not None}
        workers = [child for one in running.values() for child in one.children(recursive=True)]
        for one in [*running.values(), *workers]:
            if one.is_running():
                one.terminate()
        for one in psutil.wait_procs([*running.values(), *workers], DOWN_S)[1]:
            one.kill()
        for name in self.names():
            (self.folder / "pids" / name).unlink()
        return sorted(running)

    def kill(self, name: str) -> None:
        """End one process as a crash would, its Python workers not with it."""
        process = self.process(name)
        if process is None:
            raise ConfigError(f"there is no {name} in {self.folder}")
        process.send_signal(signal.SIGKILL)
        process.wait(DOWN_S)

    def names(self) -> list[str]:
        """Returns the names of the processes that were started."""
        folder = self.folder / "pids"
        return sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []

    def process(self, name: str) -> psutil.Process | None:
        """Returns a running process by its name."""
        try:
            number, began = (self.folder / "pids" / name).read_text().split()
            process = psutil.Process(int(number))
            same = abs(process.create_time() - float(began)) < CLOCK_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None

    def _wanted(self, taskmanagers: int) -> list[str]:
        return ["jobmanager", *(f"taskmanager-{number}" for number in range(taskmanagers))]

    def _start(self, name: str) -> None:
        if self.process(name) is not None:
            return
        script = flink_home() / "bin" / f"{name.partition('-')[0]}.sh"
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            process = subprocess.Popen(
                ["bash", str(script), "start-foreground"],
                env=environment(self.folder / "conf"), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        began = psutil.Process(process.pid).create_time()
        (self.folder / "pids" / name).write_text(f"{process.pid} {began:.2f}")

    def _configure(self, slots: int) -> None:
        conf, home = self.folder / "conf", flink_home()
        for one in (home / "conf").glob("log*"):
            (conf / one.name).write_bytes(one.read_bytes())
        shipped = re.search(r"^      all: (.*)$", (home / "conf" / "config.yaml").read_text(), re.MULTILINE)
        if shipped is None:
            raise TocsinError(f"{home}/conf/config.yaml does not have the options of Java that Flink needs")
        settings = {
            "jobmanager.rpc.address": "127.0.0.1", "jobmanager.rpc.port": self._rpc_port(),
            "jobmanager.bind-host": "127.0.0.1", "taskmanager.bind-host": "127.0.0.1", "taskmanager.host": "127.0.0.1",
            "rest.address": "127.0.0.1", "rest.bind-address": "127.0.0.1", "rest.port": self.port,
            "rest.bind-port": self.port, "jobmanager.memory.process.size": "900m",
            "taskmanager.memory.process.size": "1200m", "taskmanager.memory.managed.size": "128m",
            "taskmanager.memory.network.min": "64m", "taskmanager.memory.network.max": "64m",
            "taskmanager.numberOfTaskSlots": slots, "io.tmp.dirs": self.folder / "tmp",
            "heartbeat.interval": "2 s", "heartbeat.timeout": "20 s",
            "python.executable": sys.executable, "python.client.executable": sys.executable,
            "env.java.opts.all": f"{shipped[1]} -XX:+UseSerialGC -Djava.net.preferIPv4Stack=true",
            "env.java.opts.jobmanager": BRIEF, "env.java.opts.client": BRIEF,
        }  # fmt: skip
        (conf / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))

    def _rpc_port(self) -> int:
        """Returns the port where TaskManagers find the JobManager, the same for as long as one of them runs."""
        kept = self.folder / "rpc-port"
        if not kept.exists() or not any(self.process(name) for name in self.names()):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                kept.write_text(str(free.getsockname()[1]))
        return int(kept.read_text())

    def _tail(self, name: str) -> str:
        lines = (self.folder / "log" / f"{name}.out").read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOGGED_WHOLE:])
