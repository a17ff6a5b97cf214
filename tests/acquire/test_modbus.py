"""Registers of real Modbus answers: what words mean, what is refused, who is silent; none costs another."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modbus_server import ModbusServer
from pydantic import ValidationError
from pymodbus import FramerType
from servers import free_port

from tocsin.acquire import modbus as module
from tocsin.acquire._registers import BITS_MAX, WORDS_MAX, Register, blocks
from tocsin.acquire.modbus import Modbus
from tocsin.errors import Unavailable
from tocsin.testing import read_from

REGISTERS: dict[str, Any] = {
    "celsius": {"address": 0, "type": "int16", "scale": 0.1},
    "hours": {"address": 1, "type": "uint32"},
    "flow": {"address": 3, "type": "float32", "words": "little"},
    "alarm": {"address": 5, "type": "bool", "bit": 2},
    "running": {"address": 1, "table": "coil"},
    "door": {"address": 0, "table": "discrete"},
    "level": {"address": 0, "table": "input"},
}
FLOW = struct.unpack(">2H", struct.pack(">f", 12.5))
TABLES = {
    "holding": [65_436, 1, 2, FLOW[1], FLOW[0], 0b0100],
    "coil": [False, True, False, False, False, False, False, False],
    "discrete": [True, False, False, False, False, False, False, False],
    "input": [321],
}
VALUES = {"celsius": -10.0, "hours": 65_538, "flow": 12.5, "alarm": True, "running": True, "door": True, "level": 321}


def first(source: Modbus, rounds: int = 1) -> list[dict[str, Any]]:
    """The rows of the first rounds."""
    reader, rows = read_from(source), []
    until = time.monotonic() + 15
    try:
        while rounds and time.monotonic() < until:
            if (polled := reader.poll(1, 0.2)) is not None:
                rounds -= 1
                rows += polled[0].rows.to_pylist()
    finally:
        reader.close()
    assert not rounds, "too few rounds came"
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def poll_for(reader: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        reader.poll(1_000, 0.1)


def source(port: int, **more: Any) -> Modbus:
    settings = {"host": "127.0.0.1", "port": port, "units": {"press": 1}, "registers": REGISTERS, "every": "20ms"}
    return Modbus.model_validate({**settings, **more})


@pytest.mark.parametrize(("framing", "framer"), [("tcp", FramerType.SOCKET), ("rtu", FramerType.RTU)])
def test_values_of_each_table_and_type(framing: str, framer: FramerType) -> None:
    with ModbusServer({1: TABLES}, framer) as server:
        assert first(source(server.port, framing=framing)) == [{"key": "press", **VALUES}]


def test_each_unit_is_a_machine() -> None:
    registers = {"n": {"address": 0}}
    with ModbusServer({1: {"holding": [7]}, 9: {"holding": [8]}}) as server:
        rows = first(source(server.port, units={"press": 1, "fan": 9}, registers=registers))
    assert rows == [{"key": "press", "n": 7}, {"key": "fan", "n": 8}]


def test_a_register_that_is_not_there_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.0)
    registers = {**REGISTERS, "nowhere": {"address": 8}, "far": {"address": 5_000}}
    with ModbusServer({1: TABLES}) as server:
        reader = read_from(source(server.port, registers=registers))
        rows: list[dict[str, Any]] = []
        while len(rows) < 3:
            if (polled := reader.poll(1, 0.5)) is not None:
                rows += polled[0].rows.drop_columns(["key", "time"]).to_pylist()
        assert rows == [{**VALUES, "nowhere": None, "far": None}] * 3
        assert reader.counters()["registers_refused"] >= 6
        reader.close()


def test_a_unit_that_is_not_there_costs_no_other() -> None:
    with ModbusServer({1: TABLES}) as server, half_deaf(server.port) as port:
        reader = read_from(source(port, units={"deaf": 7, "press": 1}, timeout="200ms"))
        keys: list[str] = []
        began = time.monotonic()
        while len(keys) < 20 and time.monotonic() < began + 15:
            if (polled := reader.poll(1_000, 0.5)) is not None:
                keys += polled[0].rows.column("key").to_pylist()
        assert set(keys) == {"press"}
        assert len(keys) >= 20
        silent = reader.counters()["units_silent"]
        assert 1 <= silent < 10, "a silent unit is asked at growing intervals"
        reader.close()


@contextmanager
def half_deaf(port: int) -> Iterator[int]:
    """A gateway in front of a server that never passes on what is for unit 7."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=pass_on, args=(client,), daemon=True).start()

    def pass_on(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            while request := client.recv(260):
                if request[6] != 7:
                    server.sendall(request)
                    client.sendall(server.recv(260))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.close()


def test_an_address_where_nobody_is_is_told() -> None:
    reader = read_from(source(free_port()))
    with pytest.raises(Unavailable, match="does not accept a connection"):
        poll_for(reader, 10)
    reader.close()


def test_a_server_that_comes_back_is_read_on() -> None:
    with ModbusServer({1: TABLES}) as server:
        reader = read_from(source(server.port))
        assert reader.poll(1, 10) is not None
        port = server.port
    with pytest.raises(Unavailable):
        poll_for(reader, 20)
    reader.close()
    again = ModbusServer({1: TABLES})
    again.port = port
    with again:
        assert first(source(port)) == [{"key": "press", **VALUES}]


KINDS = {"int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8",
         "float32": "f4", "float64": "f8"}  # fmt: skip


@given(st.sampled_from(sorted(KINDS)), st.binary(min_size=8, max_size=8), st.sampled_from(["big", "little"]))
def test_words_mean_what_numpy_says(kind: str, data: bytes, order: str) -> None:
    dtype = np.dtype(">" + KINDS[kind])
    number = np.frombuffer(data[: dtype.itemsize], dtype)[0]
    words = list(np.frombuffer(data[: dtype.itemsize], ">u2").tolist())
    got = Register(address=0, type=kind, words=order).value(words if order == "big" else words[::-1])
    if not np.isfinite(number) or (kind == "uint64" and number >= 2**63):
        assert got is None
    else:
        assert got == number.item()


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["holding", "coil"])), min_size=1, max_size=60))
def test_blocks_hold_each_register_once_within_what_an_answer_holds(places: list[tuple[int, Any]]) -> None:
    registers = {f"r{i}": Register(address=at, table=table) for i, (at, table) in enumerate(places)}
    made = blocks(registers)
    assert sorted(name for block in made for name in block.names) == sorted(registers)
    for block in made:
        assert block.count <= (BITS_MAX if block.table == "coil" else WORDS_MAX)
        for name in block.names:
            assert registers[name].table == block.table
            assert block.begin <= registers[name].address < block.begin + block.count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": {}}, "at least one machine"),
        ({"units": {"press": 300}}, "0 to 255"),
        ({"registers": {"time": {"address": 1}}}, "none of them key or time"),
        ({"registers": {"a": {"address": 1, "table": "coil", "type": "int16"}}}, "a coil is a bool"),
        ({"registers": {"a": {"address": 1, "type": "bool"}}}, "needs its bit"),
        ({"registers": {"a": {"address": 65535, "type": "float32"}}}, "leaves no room"),
    ],
)
def test_settings_that_cannot_work(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        source(1, **change)
