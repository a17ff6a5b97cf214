"""A world that is not there, from a seed: a clock and a disk that fail and crash at any I/O step.

What is durable and what is not follows POSIX, and no more: bytes after fsync of the file, names after fsync of the
folder. A power cut keeps anything of the rest: whole, torn, with a hole, empty or not at all, name by name.

    simulated = SimulatedWorld(seed=7, faults=3)
    writer = MySink(...).open(simulated.part(Path("/data"), "test/mine"), schema)   # may raise Crash or PowerCut
    ...
    simulated.disk.power_cut(); simulated.boot()                                    # then open it again
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tocsin.errors import DurabilityError
from tocsin.world import World

STEPS_MAX = 60_000


class Crash(BaseException):
    """The process is gone; what the system had in its cache stays."""


class PowerCut(Crash):
    """The machine is gone; what was not durable may be, too."""


class Broken(AssertionError):
    """An invariant does not hold."""


class SimulatedWorld:
    """What outlives a process, and the faults that are still to come."""

    def __init__(self, seed: int, faults: int, mutant: str = "") -> None:
        self.random = random.Random(seed)  # noqa: S311 (faults, not secrets)
        self.mutant = mutant
        self.faults = faults
        self.calm_steps = self.random.choice((3, 10, 30, 60))
        """Steps between faults, about."""
        self.next_fault = self._gap()
        self.next_kind: str | None = None
        self.focus = self.random.choice(("", "", "folder _delta_log", "commit point", "folder 0", "unlink"))
        """Steps at which a crash is more likely."""
        self.steps = 0
        self.crash_at = 0
        """The step to crash at, beside the faults by chance; 0: none."""
        self.cuts_power = False
        """Whether that crash is a power cut."""
        self.dead: Crash | None = None
        self.full_until = 0
        self.now_s = 0.0
        self.skew_us = 0
        self.disk = SimulatedDisk(self)
        self.trace: list[str] = []
        self.on_stop: Callable[[], None] | None = None
        """Called for the fault ``stop``: asks the engine to end."""
        self.on_second: Callable[[], None] | None = None
        """Called for the fault ``second``: starts another engine beside the first."""
        self.on_unlink: Callable[[Path], None] = lambda _: None
        """Called before a file is deleted; raises `Broken` if it is still needed."""

    def _gap(self) -> int:
        return 1 + int(self.random.expovariate(1 / self.calm_steps))

    def boot(self) -> None:
        """A new process."""
        self.dead = None

    def part(self, folder: Path, name: str) -> World:
        """Returns the world that an end is opened with: this one's clock and disk."""
        return World(self, self.disk, folder, folder / ".state" / name.replace("/", "_"), name)

    def io(self, what: str, kinds: Sequence[str] = ()) -> str | None:
        """One I/O step: may kill the process, cut the power, or tell the caller which of ``kinds`` of fault to have."""
        if self.dead is not None:
            raise self.dead
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Broken(f"I7: no end after {STEPS_MAX} steps")
        if self.steps == self.crash_at:
            self.die(PowerCut() if self.cuts_power else Crash())
        if self.steps < self.full_until and "full" in kinds:
            return "full"
        self.next_fault -= 1
        if self.focus and self.focus in what and self.next_kind is None and self.random.random() < 0.1:
            self.next_fault, self.next_kind = 0, "crash"
        if self.next_fault > 0 or self.faults <= 0:
            return None
        self.next_fault = self._gap()
        kind = self.next_kind or self.random.choice(("crash", "crash", "power", "power", "stop", "second", *kinds))
        self.next_kind = None
        if kind == "crash" and self.random.random() < 0.5:
            # What a recovery saw but did not make durable is lost by a power cut soon after it.
            self.next_kind, self.next_fault = "power", self.random.randrange(1, 120)
        self.faults -= 1
        self.trace.append(f"{self.steps} {kind} {what}")
        if kind == "crash":
            self.die(Crash())
        if kind == "power":
            self.die(PowerCut())
        if kind == "stop" and self.on_stop is not None:
            self.on_stop()
        elif kind == "second" and self.on_second is not None:
            self.on_second()
        elif kind == "full":
            self.full_until = self.steps + self.random.randrange(1, 40)
        return kind if kind in kinds else None

    def die(self, crash: Crash) -> None:
        self.dead = crash
        raise crash

    # Clock

    def now_us(self) -> int:
        if self.faults > 0 and self.random.random() < 0.01:
            self.skew_us = self.random.choice((-3_600, 0, 3_600)) * 1_000_000
        return 1_700_000_000_000_000 + int(self.now_s * 1e6) + self.skew_us

    def monotonic_s(self) -> float:
        self.now_s += 0.0001
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Broken(f"I7: no end after {STEPS_MAX} steps")


class Inode:
    """The bytes of a file: what is seen, and what is on the platter."""

    def __init__(self) -> None:
        self.data = b""
        self.durable = b""
        self.lost = False
        """After a failed fsync: the cache says clean, the platter never saw it."""


class SimulatedDisk:
    """`world.Disk` in memory, with what a power cut leaves behind."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.world = world
        self.folders: dict[Path, dict[str, Inode]] = {}
        self.durable: dict[Path, dict[str, Inode]] = {}

    def read(self, path: Path) -> bytes:
        self.world.io(f"read {path.name}")
        return self._inode(path).data

    def write(self, path: Path, data: bytes | memoryview) -> None:
        self._put(path, b"", bytes(data))

    def append(self, path: Path, data: bytes | memoryview) -> None:
        known = self.folders.get(path.parent, {}).get(path.name)
        self._put(path, known.data if known else b"", bytes(data))

    def _put(self, path: Path, before: bytes, data: bytes) -> None:
        torn = before + data[: self.world.random.randrange(len(data) + 1)]
        inode = self.folders[path.parent].setdefault(path.name, Inode())
        inode.data = torn  # what stands if the process dies in the middle
        fault = self.world.io(f"write {path.name}", ("full", "error"))
        if fault is not None:
            raise OSError(errno.ENOSPC if fault == "full" else errno.EIO, "simulated", str(path))
        inode.data = before + data

    def truncate(self, path: Path, size: int) -> None:
        self.world.io(f"truncate {path.name}")
        self._inode(path).data = self._inode(path).data[:size]

    def sync(self, path: Path) -> None:
        if self.world.io(f"sync {path.name}", ("fsync",)) == "fsync":
            raise DurabilityError(f"fsync of {path} failed (simulated)")
        inode = self._inode(path)
        inode.durable = inode.data

    def sync_folder(self, path: Path) -> None:
        if self.world.io(f"sync folder {path.name}", ("fsync",)) == "fsync":
            raise DurabilityError(f"fsync of {path} failed (simulated)")
        self.durable[path] = dict(self.folders[path])

    def link(self, old: Path, new: Path) -> None:
        if self.world.io(f"link {new.name}", ("error",)):
            raise OSError(errno.EIO, "simulated", str(new))
        if new.name in self.folders[new.parent]:
            raise FileExistsError(new)
        self.folders[new.parent][new.name] = self._inode(old)

    def rename(self, old: Path, new: Path) -> None:
        if self.world.io(f"rename {new.name}", ("error",)):
            raise OSError(errno.EIO, "simulated", str(new))
        self.folders[new.parent][new.name] = self.folders[old.parent].pop(old.name)

    def unlink(self, path: Path) -> None:
        self.world.io(f"unlink {path.name}")
        self.world.on_unlink(path)
        self.folders.get(path.parent, {}).pop(path.name, None)

    def names(self, folder: Path) -> Sequence[str]:
        self.world.io(f"names {folder.name}")
        return sorted(self.folders.get(folder, ()))

    def size(self, path: Path) -> int:
        return len(self._inode(path).data)

    def make_folder(self, path: Path) -> None:
        for folder in (path, *path.parents):
            self.folders.setdefault(folder, {})
            self.durable.setdefault(folder, {})

    def _inode(self, path: Path) -> Inode:
        inode = self.folders.get(path.parent, {}).get(path.name)
        if inode is None:
            raise FileNotFoundError(path)
        return inode

    def power_cut(self) -> None:
        random = self.world.random
        for folder, names in self.folders.items():
            durable = self.durable[folder]
            for name in {**names, **durable}:
                if names.get(name) is not durable.get(name) and random.random() < 0.5:
                    if name in durable:
                        names[name] = durable[name]
                    else:
                        del names[name]
            self.durable[folder] = dict(names)
        for inode in {id(inode): inode for names in self.folders.values() for inode in names.values()}.values():
            inode.data = inode.durable = self._left(inode)

    def _left(self, inode: Inode) -> bytes:
        random, data, durable = self.world.random, inode.data, inode.durable
        if data == durable:
            return data
        keep = len(durable) if data.startswith(durable) else 0
        cut = random.randrange(keep, len(data) + 1) if len(data) >= keep else keep
        hole = random.randrange(keep, len(data)) if len(data) > keep else keep
        return random.choice(
            (
                durable,
                data,
                data[:cut],
                data[:cut] + b"\0" * (len(data) - cut),
                data[:keep] + random.randbytes(len(data) - keep),
                data[:hole] + b"\0" * (min(hole + 64, len(data)) - hole) + data[hole + 64 :],
            )
        )
