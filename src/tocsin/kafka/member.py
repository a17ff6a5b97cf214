"""Who a source is in its group: a name in a file, so that a restart is the same member and moves no partition."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from tocsin.world import World, replace


class Member:
    """A name that stays, and whether this source has ever been given partitions."""

    def __init__(self, world: World) -> None:
        self._disk = world.disk
        self.path: Path = world.scratch / "member.json"
        try:
            known = json.loads(self._disk.read(self.path))
        except FileNotFoundError:
            known = {"name": f"tocsin-{uuid.uuid4().hex}", "started": False}
        self.name = str(known["name"])
        self.started = bool(known["started"])
        if not self.started:
            self._keep()

    def start(self) -> None:
        """From now on partitions that nobody has read are new ones, and read from their beginning."""
        if not self.started:
            self.started = True
            self._keep()

    def _keep(self) -> None:
        self._disk.make_folder(self.path.parent)
        replace(self._disk, self.path, json.dumps({"name": self.name, "started": self.started}).encode())
