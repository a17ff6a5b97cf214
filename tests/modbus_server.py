"""A Modbus TCP server: pymodbus' own simulator, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pymodbus import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from servers import free_port

TABLES = ("coil", "discrete", "holding", "input")


class ModbusServer:
    """Units with their tables, each a list of words (or truths) from address 0 on; it ends with the block."""

    def __init__(
        self, units: Mapping[int, Mapping[str, Sequence[Any]]], framer: FramerType = FramerType.SOCKET, port: int = 0
    ) -> None:
        self.port = port or free_port()
        self._devices = [SimDevice(unit, simdata=_tables(tables)) for unit, tables in units.items()]
        self._framer = framer
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ModbusServer:
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.shutdown(), self._loop).result(10)
        assert self._thread is not None
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        self._server = ModbusTcpServer(self._devices, framer=self._framer, address=("127.0.0.1", self.port))
        serving = asyncio.create_task(self._server.serve_forever())
        while self._server.transport is None:
            await asyncio.sleep(0.01)
        self._up.set()
        await serving


def _tables(tables: Mapping[str, Sequence[Any]]) -> tuple[list[SimData], ...]:
    kinds = {
        "coil": DataType.BITS,
        "discrete": DataType.BITS,
        "holding": DataType.REGISTERS,
        "input": DataType.REGISTERS,
    }
    return tuple([SimData(0, values=list(tables.get(name, [0])), datatype=kinds[name])] for name in TABLES)
