"""Source `sparkplug`: a host application of Sparkplug B, which asks for the births that it has missed."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import field_validator

from tocsin.acquire._mqtt import MqttReader, Subscription
from tocsin.acquire._session import derived
from tocsin.contracts import Offset, Source
from tocsin.ends import OneSplit
from tocsin.mqtt.codec import Publishes
from tocsin.mqtt.packets import Will
from tocsin.mqtt.topics import FORBIDDEN_IN_IDS
from tocsin.settings import Many
from tocsin.settings.quantities import Duration, Size
from tocsin.sparkplug.nodes import MISSED, NODES_MAX, STATE_TOPIC, Nodes
from tocsin.sparkplug.payload import (
    DEVICE_KINDS,
    NAMESPACE,
    NODE_KINDS,
    Topic,
    Unreadable,
    parse,
    payload_class,
    read_topic,
    rebirth,
)
from tocsin.world import World, replace

log = logging.getLogger(__name__)
_AGAIN_S = 60.0
"""A node that does not answer with its birth is asked again after so long."""
_LOOK_S = 0.2
"""So often, where nothing comes, we look whether there is something to say: of a new connection, or a rebirth due."""


class Sparkplug(Subscription, Source):
    """A host application of Sparkplug B: hears edge nodes and devices, and asks for a rebirth where it must.

    It does so for a node whose birth it has not seen, after a gap in the sequence numbers that stays open for
    ``reorder``, for data of a device or an alias that no birth has named, and, on each new connection, of all nodes
    that it knew; a node that does not answer is asked again after a minute. With a ``host_id`` it says by STATE whether
    it is there (retained, and as its last will), as edge nodes want it that have a primary host. Decode with
    ``sparkplug``.

    What came is kept in the runner's ingest log, and each message makes its rows exactly once. Sparkplug wants a new
    session for each connection and data at QoS 0, so what is sent while no connection is there is not seen; where edge
    nodes send at QoS 1, a ``session_expiry_us`` keeps that as well. Needs ``pip install 'tocsin[sparkplug]'``.

    Examples
    --------
    >>> source = Sparkplug(url="mqtt://localhost", groups="plant", host_id="tocsin")
    >>> source.filters()[:2]
    ('spBv1.0/plant/NBIRTH/+', 'spBv1.0/plant/NDATA/+')

    Eclipse Foundation, "Sparkplug Specification 3.0.0" (2022), chapter 5.
    """

    REPLAYABLE: ClassVar[bool] = False
    PROMISE: ClassVar[str] = (
        "exactly once, of what the broker has delivered: at QoS 1 and with session_expiry_us all that is sent"
    )

    groups: Many[str] = ("+",)
    """The groups to listen to; by default all."""
    host_id: str | None = None
    """Our name as a host application, under which STATE says whether we are there; without one nothing is said."""
    rebirth: bool = True
    """Whether to ask edge nodes for births that were missed; one who only listens must wait for them."""
    reorder: Duration = 2_000_000
    """How long a message may be late before its node is asked for a rebirth."""
    session_expiry_us: Duration = 0
    """How long the broker keeps our session while we are away; 0, as Sparkplug has it: not at all."""
    packet_bytes_max: Size = 4 << 20
    """A longer message loses its end, and is then set aside."""

    @field_validator("groups")
    @classmethod
    def _groups(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        if not groups or any(not group or (group != "+" and FORBIDDEN_IN_IDS & set(group)) for group in groups):
            raise ValueError("a group is a name without +, # and /, or + for all of them")
        return groups

    @field_validator("host_id")
    @classmethod
    def _host_id(cls, host_id: str | None) -> str | None:
        if host_id is not None and (not host_id or FORBIDDEN_IN_IDS & set(host_id)):
            raise ValueError("a host_id is a name without +, # and /")
        return host_id

    def filters(self) -> tuple[str, ...]:
        """Returns the topics to subscribe to."""
        heard = [f"{group}/{kind}/+" for group in self.groups for kind in NODE_KINDS]
        heard += [f"{group}/{kind}/+/+" for group in self.groups for kind in DEVICE_KINDS]
        own = [] if self.host_id is None else [f"STATE/{self.host_id}"]
        return tuple(f"{NAMESPACE}/{topic}" for topic in (*heard, *own))

    def sampled(self) -> Sparkplug:
        name = f"look-{uuid.uuid4().hex[:16]}"
        return self.model_copy(
            update={"client_id": name, "session_expiry_us": 0, "host_id": None, "rebirth": False},
        )

    def check(self, world: World) -> None:
        payload_class()
        if self.tls is not None:
            self.tls.context(world.given)

    def open(self, world: World) -> OneSplit:
        self.check(world)
        return OneSplit(lambda offset: SparkplugReader(self, world, offset))


class SparkplugReader(MqttReader):
    """The open session of a host application."""

    def __init__(self, source: Sparkplug, world: World, offset: Offset | None) -> None:
        if not source.session_expiry_us and not source.client_id:
            name = derived(source.url, source.user or "", world.name)
            source = source.model_copy(update={"client_id": name})
        self._host, self._began_ms = source, 0
        self._state_topic = f"{NAMESPACE}/STATE/{source.host_id}"
        self._nodes, self._known = Nodes(), _Known(world, source.groups)
        self._due_s: dict[str, float] = {}
        """By edge node: when to ask it for a rebirth."""
        self._gaps_s: dict[str, float] = {}
        """By edge node: until when a gap in its sequence numbers may be filled."""
        self._has_missed = False
        self.rebirths = 0
        """How many rebirths were asked for."""
        will = None if source.host_id is None else self._will
        super().__init__(source, world, offset, source.filters(), will=will)
        self._is_first = offset is None

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Any, Offset] | None:
        polled = super().poll(rows_max, min(timeout_s, _LOOK_S))
        self._ask()
        return polled

    def counters(self) -> dict[str, int]:
        return {**super().counters(), "rebirths": self.rebirths}

    def close(self) -> None:
        if self._host.host_id is not None:
            self._say(online=False, ms=self._now_ms())
        super().close()

    # -------------------------------------------------------------------------------------------------------- saying

    def _will(self) -> Will:
        """What the broker says for us; asked once for each connection."""
        self._began_ms = self._now_ms()
        return Will(self._state_topic, _state(online=False, ms=self._began_ms), qos=1, retain=True)

    def _say(self, *, online: bool, ms: int) -> None:
        self.client.post(self._state_topic, _state(online=online, ms=ms), qos=1, retain=True)

    def _now_ms(self) -> int:
        return self._clock.now_us() // 1000

    def _ask(self) -> None:
        """Ask for the rebirths that are due."""
        if not self._host.rebirth:
            return
        now_s = self._clock.monotonic_s()
        for edge in [edge for edge, until_s in self._gaps_s.items() if until_s <= now_s]:
            self._due_s.setdefault(edge, self._gaps_s.pop(edge))
        for edge in [edge for edge, due_s in self._due_s.items() if due_s <= now_s]:
            group, node = edge.split("/")
            if not self.client.post(f"{NAMESPACE}/{group}/NCMD/{node}", rebirth(self._now_ms())):
                return
            self.rebirths += 1
            self._due_s[edge] = now_s + _AGAIN_S
            log.info("%s is asked for its births", edge)

    # ------------------------------------------------------------------------------------------------------- hearing

    def _new_connection(self) -> None:
        super()._new_connection()
        if self._host.host_id is not None:
            self._say(online=True, ms=self._began_ms)
        if not self.client.session_present:
            self._has_missed, self._is_first = not self._is_first, False
            self._nodes = Nodes()
            self._due_s, self._gaps_s = dict.fromkeys(self._known.edges, self._clock.monotonic_s()), {}

    def _passed(self, messages: Publishes) -> Publishes:
        for name, data in zip(messages.topics.to_pylist(), messages.payloads.to_pylist(), strict=True):
            topic = read_topic(name)
            if topic is not None:
                self._hear(topic, data)
            elif name == self._state_topic and not _is_online(data):
                # Our own will, of a connection before this one, or somebody in our name: we are here.
                self._say(online=True, ms=self._began_ms)
        if self._has_missed and len(messages):
            self._has_missed = False
            messages = messages.after(STATE_TOPIC, MISSED)
        return messages

    def _hear(self, topic: Topic, data: bytes) -> None:
        """Note what a message says of its node, and whether a rebirth is needed, and when."""
        try:
            payload = parse(data, self._host.packet_bytes_max)
        except Unreadable:  # the decoder sets it aside; its number is missed
            return
        heard, edge = self._nodes.hear(topic, payload), topic.edge
        now_s = self._clock.monotonic_s()
        if topic.kind in ("NBIRTH", "NDEATH"):
            if heard.device is not None or heard.died:
                self._due_s.pop(edge, None)
                self._gaps_s.pop(edge, None)
                self._known.note(edge, topic.kind == "NBIRTH")
            return
        if heard.lacks or (heard.device is not None and _has_strange(payload, heard.device.names)):
            self._due_s.setdefault(edge, now_s)
            while len(self._due_s) > NODES_MAX:
                del self._due_s[next(iter(self._due_s))]
        elif self._nodes.nodes[edge].is_sure:
            self._gaps_s.pop(edge, None)
        else:
            self._gaps_s.setdefault(edge, now_s + self._host.reorder / 1e6)


class _Known:
    """The edge nodes that were there when last heard of, in a file: those that say little are asked after a start."""

    def __init__(self, world: World, groups: tuple[str, ...]) -> None:
        self._disk, self._path = world.disk, world.scratch / "nodes.json"
        try:
            edges = json.loads(self._disk.read(self._path))
        except FileNotFoundError:
            edges = []
        wanted = [edge for edge in edges if "+" in groups or edge.partition("/")[0] in groups]
        self.edges: dict[str, None] = dict.fromkeys(wanted)

    def note(self, edge: str, is_there: bool) -> None:
        """An edge node was born, or has died."""
        if (edge in self.edges) == is_there:
            return
        if is_there:
            self.edges[edge] = None
        else:
            del self.edges[edge]
        while len(self.edges) > NODES_MAX:
            del self.edges[next(iter(self.edges))]
        self._disk.make_folder(self._path.parent)
        replace(self._disk, self._path, json.dumps([*self.edges]).encode())


def _has_strange(payload: Any, names: Mapping[int, str]) -> bool:
    """Whether a metric has neither a name nor an alias that a birth has named."""
    return any(not metric.name and metric.alias not in names for metric in payload.metrics)


def _state(*, online: bool, ms: int) -> bytes:
    return json.dumps({"online": online, "timestamp": ms}).encode()


def _is_online(data: bytes) -> bool:
    try:
        said = json.loads(data)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("online") is True


__all__ = ["Sparkplug"]
