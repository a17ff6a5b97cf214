"""What births, deaths and sequence numbers say of edge nodes and their devices: a state, fed message by message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tocsin.sparkplug.payload import NAMESPACE, Topic, Unreadable, name_of

NODES_MAX = 10_000
"""So many edge nodes are known; beyond, those that were born longest ago are forgotten."""
STATE_TOPIC, MISSED = f"{NAMESPACE}/STATE", b"missed"
"""The record that the source puts before what it hears on a new connection: messages may have been missed."""
_GAP_MAX = 32
"""So many messages may be late and still fill the gap that they left; of a longer gap none is waited for."""
_BDSEQ = "bdSeq"
"""The metric that says which birth a death belongs to."""


@dataclass(slots=True)
class BornDevice:
    """What a birth has named: of a device, or of the edge node itself."""

    types: dict[str, int]
    """By a metric's name; 0 where the birth says none."""
    names: dict[int, str]
    """By alias."""
    text: str = ""
    """The same as JSON, written once."""

    @staticmethod
    def of(payload: Any) -> BornDevice:
        device = BornDevice({}, {})
        for metric in payload.metrics:
            try:
                name = name_of(metric)
            except Unreadable:  # the decoder sets that metric aside
                continue
            if name and name != _BDSEQ:
                device.types[name] = metric.datatype
                if metric.HasField("alias"):
                    device.names[metric.alias] = name
        device.text = json.dumps([device.types, {str(alias): name for alias, name in device.names.items()}])
        return device

    @staticmethod
    def load(text: str) -> BornDevice:
        types, names = json.loads(text)
        return BornDevice(types, {int(alias): name for alias, name in names.items()}, text)


@dataclass(slots=True)
class EdgeNode:
    """An edge node between its birth and its death."""

    bdseq: int | None
    seq: int
    """Of its newest message."""
    devices: dict[str, BornDevice] = field(default_factory=dict)
    """By name; the node's own metrics under the empty one."""
    missing: set[int] = field(default_factory=set)
    """Sequence numbers that were passed over, and may come late."""
    lost: bool = False
    """Whether something has not come that will not come."""

    @property
    def is_sure(self) -> bool:
        """Whether all has come since the birth, so that aliases are what it said."""
        return not self.lost and not self.missing

    def advance(self, seq: int) -> bool:
        """Note the number of a message. Returns whether it leaves a gap that was not there."""
        due = (self.seq + 1) % 256
        if seq == due:
            self.seq = seq
            return False
        if seq in self.missing:
            self.missing.discard(seq)
            return False
        gap = (seq - due) % 256
        if gap > _GAP_MAX:
            self.lost = True
        else:
            self.missing |= {(due + i) % 256 for i in range(gap)}
        self.seq = seq
        return True


@dataclass(frozen=True, slots=True)
class Heard:
    """What one message means for its node."""

    device: BornDevice | None = None
    """What its metrics are; None where that is not known."""
    lacks: str = ""
    """Why a rebirth is needed before its metrics can be read; empty if they can."""
    is_sure: bool = True
    """Whether aliases are certainly what the birth said."""
    died: tuple[tuple[str, BornDevice | None], ...] = ()
    """Devices (the empty name: the node itself) that are no longer there, with what they had."""


class Nodes:
    """All edge nodes that are known to be there."""

    def __init__(self) -> None:
        self.nodes: dict[str, EdgeNode] = {}
        self.gaps = 0
        """How often a sequence number was passed over."""

    def hear(self, topic: Topic, payload: Any) -> Heard:
        """Take a birth, a death or data in."""
        if topic.kind == "NBIRTH":
            return self._node_born(topic, payload)
        node = self.nodes.get(topic.edge)
        if topic.kind == "NDEATH":
            return self._node_died(topic, node, payload)
        if node is None:
            died = ((topic.device, None),) if topic.kind == "DDEATH" else ()
            return Heard(lacks=f"the birth of node {topic.edge} has not been seen", is_sure=False, died=died)
        if payload.HasField("seq"):
            self.gaps += node.advance(payload.seq % 256)
        if topic.kind == "DBIRTH":
            node.devices[topic.device] = BornDevice.of(payload)
        elif topic.kind == "DDEATH":
            return Heard(died=((topic.device, node.devices.pop(topic.device, None)),))
        device = node.devices.get(topic.device)
        lacks = "" if device is not None else f"the birth of {topic.machine} has not been seen"
        return Heard(device, lacks, node.is_sure)

    def _node_born(self, topic: Topic, payload: Any) -> Heard:
        device = BornDevice.of(payload)
        self.nodes.pop(topic.edge, None)
        self.nodes[topic.edge] = EdgeNode(_bdseq(payload), payload.seq % 256, {"": device})
        while len(self.nodes) > NODES_MAX:
            del self.nodes[next(iter(self.nodes))]
        return Heard(device)

    def _node_died(self, topic: Topic, node: EdgeNode | None, payload: Any) -> Heard:
        bdseq = _bdseq(payload)
        if node is None:
            return Heard(died=(("", None),))
        if None not in (bdseq, node.bdseq) and bdseq != node.bdseq:
            return Heard()  # of an earlier connection: a will may come after the next birth
        del self.nodes[topic.edge]
        return Heard(died=tuple(node.devices.items()))

    def doubt(self) -> None:
        """Messages may have been missed, of any node."""
        for node in self.nodes.values():
            node.lost = True

    def dump(self) -> pa.Table:
        """A row for each device."""
        rows = [(key, node, name, device) for key, node, name, device in self._devices()]
        return pa.table(
            {
                "key": pa.array([key for key, *_ in rows], pa.string()),
                "device": pa.array([name for _, _, name, _ in rows], pa.string()),
                "bdseq": pa.array([node.bdseq for _, node, _, _ in rows], pa.uint64()),
                "seq": pa.array([node.seq for _, node, _, _ in rows], pa.int64()),
                "missing": pa.array([sorted(node.missing) for _, node, _, _ in rows], pa.list_(pa.int64())),
                "lost": pa.array([node.lost for _, node, _, _ in rows], pa.bool_()),
                "metrics": pa.array([device.text for *_, device in rows], pa.string()),
            }
        )

    def _devices(self) -> Iterator[tuple[str, EdgeNode, str, BornDevice]]:
        for key, node in self.nodes.items():
            for name, device in node.devices.items():
                yield key, node, name, device

    @staticmethod
    def load(table: pa.Table) -> Nodes:
        """The reverse of `dump`."""
        state = Nodes()
        for row in table.to_pylist():
            fresh = EdgeNode(row["bdseq"], row["seq"], {}, set(row["missing"]), row["lost"])
            node = state.nodes.setdefault(row["key"], fresh)
            node.devices[row["device"]] = BornDevice.load(row["metrics"])
        return state


def _bdseq(payload: Any) -> int | None:
    for metric in payload.metrics:
        if metric.name == _BDSEQ.encode():
            which = metric.WhichOneof("value")
            return int(getattr(metric, which)) if which in ("int_value", "long_value") else None
    return None


__all__ = ["MISSED", "NODES_MAX", "STATE_TOPIC", "BornDevice", "EdgeNode", "Heard", "Nodes"]
