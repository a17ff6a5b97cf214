"""What an MQTT broker keeps for a source while it is away: the session's name, and the topics it is subscribed to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.world import World, replace


class SavedSession:
    """Its name and the topics of before, in a file: a change of topics keeps the session and what waits in it."""

    def __init__(self, world: World, owner: Mapping[str, str], topics: Sequence[str], named: str, derived: str) -> None:
        """``owner`` is the broker and the user; ``named`` the client id as set, ``derived`` the one for want of it."""
        self._world, self._path = world, world.scratch / "session.json"
        before = self._before()
        same = all(before.get(name) == value for name, value in owner.items())
        self.client_id: str = named or (str(before["client_id"]) if same else derived)
        subscribed = before["topics"] if same and before["client_id"] == self.client_id else ()
        self.stale = tuple(topic for topic in subscribed if topic not in topics)
        """Topics of before that the file no longer asks for."""
        now = {**owner, "client_id": self.client_id, "topics": [*topics, *self.stale]}
        if now != before:
            world.disk.make_folder(self._path.parent)
            replace(world.disk, self._path, json.dumps(now).encode())

    def _before(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._world.disk.read(self._path)))
        except FileNotFoundError:
            return {}


def derived(*parts: str) -> str:
    """Returns a client id of 22 characters: all brokers take 23."""
    name = "\n".join(parts)
    return f"tocsin-{hashlib.sha256(name.encode()).hexdigest()[:15]}"
