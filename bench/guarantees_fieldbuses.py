"""The parts `opcua`, `modbus` and `sparkplug` of `guarantees.py`, to Delta tables.

What a subscription to OPC UA or a poll of Modbus has not read was never here, and cannot be promised. So with these two
a row is a number with the time at which it was read, and those count that the ingest log held when an engine was
killed. Their servers are processes of their own: `python guarantees_fieldbuses.py opcua|modbus PORT` starts one, which
takes lists of numbers on its standard input, one after the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cut_network import CutNetwork
from guarantees_part import Part, in_delta, program
from servers import Mosquitto, free_port

from tocsin.engine.ingest_log import IngestLog
from tocsin.mqtt.client import Client
from tocsin.pipeline.model import Pipeline
from tocsin.sparkplug.payload import payload_class
from tocsin.testing import read_from
from tocsin.world import SystemDisk

HELD_S = 0.003
"""So long a server has each number, at least: it can be read."""


class _Numbers:
    """A server in a process of its own."""

    def __init__(self, kind: str) -> None:
        self._kind, self.port = kind, free_port()
        self.start()

    def start(self) -> None:
        command = [sys.executable, __file__, self._kind, str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._heard()

    def write(self, numbers: Sequence[int]) -> None:
        """Let its value be one of these after the other."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([*numbers]) + "\n")
        self._process.stdin.flush()
        self._heard()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def _heard(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit(f"the {self._kind} server has ended")


class _Read(Part):
    """A source whose promise covers what it has read."""

    KIND: str
    LOGGED: tuple[str, str]
    """The number, and when it was read, as the ingest log has them."""
    KEPT: tuple[str, str]
    """And as the table does."""

    def __init__(self, folder: Path) -> None:
        self._lake = folder / "lake"
        self._server = _Numbers(self.KIND)
        self.network = self._between = CutNetwork(self._server.port)
        self._read: set[tuple[Any, ...]] = set()

    @abstractmethod
    def source(self, port: int) -> Mapping[str, Any]: ...

    def pipeline(self) -> Mapping[str, Any]:
        return {"source": self.source(self._between.port), "streams": {"readings": {"sinks": [{"delta": "out"}]}}}

    def send(self, numbers: Sequence[int]) -> None:
        self._server.write(numbers)

    def restart(self) -> None:
        self._server.kill()
        self._server.start()

    def killed(self, state: Path) -> None:
        for folder in {path.parent for path in (state / "ingest").rglob("*.log")}:
            for frame in IngestLog(folder, SystemDisk()).after(0):
                columns = [frame.content()[0].rows.column(name).to_pylist() for name in self.LOGGED]
                self._read |= set(zip(*columns, strict=True))

    def promised(self, records: int) -> Collection[Any]:
        return self._read

    def received(self) -> Counter[Any]:
        return in_delta(self._lake / "out", *self.KEPT)

    def besides(self) -> Mapping[str, int]:
        return {
            "rows read": len(self._read),
            "numbers read": len({n for n, _ in self._read if n is not None and n >= 0}),
        }

    def close(self) -> None:
        self._between.close()
        self._server.kill()


class OpcuaNodes(_Read):
    """A variable of a server of OPC UA, as it changes."""

    KIND = "opcua"
    LOGGED = ("value", "received")
    KEPT = ("value", "time")

    def source(self, port: int) -> Mapping[str, Any]:
        nodes = {"press": {"n": "ns=2;s=n"}}
        return {"opcua": {"url": f"opc.tcp://127.0.0.1:{port}", "nodes": nodes, "every": "50ms", "timeout": "2s"}}


class ModbusRegisters(_Read):
    """Two registers of a device, asked every few milliseconds."""

    KIND = "modbus"
    LOGGED = KEPT = ("n", "time")

    def source(self, port: int) -> Mapping[str, Any]:
        registers = {"n": {"address": 0, "type": "uint32"}}
        where = {"host": "127.0.0.1", "port": port, "units": {"press": 1}}
        return {"modbus": {**where, "registers": registers, "every": "5ms", "timeout": "1s"}}


class SparkplugNode(Part):
    """An edge node that sends its metric at QoS 1 over a real Mosquitto, which keeps our session."""

    def __init__(self, folder: Path) -> None:
        self._lake = folder / "lake"
        self._broker = Mosquitto(program("mosquitto", "mosquitto"), folder).start()
        self.network = self._between = CutNetwork(self._broker.port)
        self._seq = 0
        plan = Pipeline.model_validate({"name": "sparkplug", **self.pipeline()}).plan()
        reader: Any = read_from(plan.sources[0].source)
        until_s = time.monotonic() + 10
        while not reader.client.connected and time.monotonic() < until_s:
            reader.poll(1, 0.1)  # from now on the broker keeps what is published
        reader.close()
        self._publish("NBIRTH", [{"name": b"n", "alias": 1, "datatype": 4, "long_value": 0}])

    def pipeline(self) -> Mapping[str, Any]:
        session = {"client_id": "guarantees", "session_expiry_us": "1h"}
        source = {"sparkplug": {"url": f"mqtt://127.0.0.1:{self._between.port}", **session}}
        readings = {"steps": [{"keep": "metric = 'n' and event = 'data'"}], "sinks": [{"delta": "out"}]}
        return {"source": source, "decode": "sparkplug", "key": "machine", "streams": {"readings": readings}}

    def send(self, numbers: Sequence[int]) -> None:
        self._publish("NDATA", *([{"alias": 1, "long_value": n}] for n in numbers))

    def restart(self) -> None:
        self._broker.stop()
        self._broker.start()

    def received(self) -> Counter[Any]:
        return in_delta(self._lake / "out", "value")

    def promised(self, records: int) -> Collection[Any]:
        return [(float(n),) for n in range(records)]

    def close(self) -> None:
        self._between.close()
        self._broker.stop()

    def _publish(self, kind: str, *payloads: Sequence[Mapping[str, Any]]) -> None:
        messages = []
        for metrics in payloads:
            payload = payload_class()(timestamp=time.time_ns() // 1_000_000, seq=self._seq, metrics=metrics)
            messages.append((f"spBv1.0/plant/{kind}/press", payload.SerializeToString()))
            self._seq = (self._seq + 1) % 256
        client = Client(self._broker.url)
        client.publish(messages)
        client.close()


def _opcua(port: int) -> None:
    from opcua_server import OpcuaServer

    with OpcuaServer({"n": -1}, port) as server:
        _obey(lambda n: server.write("n", n))


def _modbus(port: int) -> None:
    from modbus_server import ModbusServer
    from pymodbus.client import ModbusTcpClient

    with ModbusServer({1: {"holding": [0, 0]}}, port=port):
        client = ModbusTcpClient("127.0.0.1", port=port)
        client.connect()

        def write(n: int) -> None:
            answer = client.write_registers(0, [n >> 16, n & 0xFFFF], device_id=1)
            assert not answer.isError(), answer

        _obey(write)
        client.close()


def _obey(write: Callable[[int], None]) -> None:
    """Say that it is up, then that each list of numbers has been written."""
    print(flush=True)
    for line in sys.stdin:
        for n in json.loads(line):
            write(n)
            time.sleep(HELD_S)
        print(flush=True)


if __name__ == "__main__":
    {"opcua": _opcua, "modbus": _modbus}[sys.argv[1]](int(sys.argv[2]))
