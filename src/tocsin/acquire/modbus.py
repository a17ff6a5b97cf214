"""Source `modbus`: registers of devices, asked at a fixed pace over Modbus TCP."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from tocsin.acquire._registers import Register, RegisterBlock, Value, blocks
from tocsin.batch import KEY, TIME, Batch, as_keys, as_one, as_times
from tocsin.contracts import Offset, Reader, Source
from tocsin.ends import OneSplit
from tocsin.errors import MissingExtra, Unavailable
from tocsin.settings.quantities import Duration
from tocsin.world import Clock, World

log = logging.getLogger(__name__)
_WAITING_MAX = 256
"""So many rounds wait for the engine before the devices are asked no further."""
_AGAIN_S = 60.0
"""A register that a unit does not have is asked for again after so long, and at the latest a unit that is silent."""
_REFUSALS = (1, 2, 3)
"""Illegal function, address or value; any other exception says that the unit cannot answer now."""


class Modbus(Source):
    """Ask devices for their registers, over Modbus TCP, or RTU in TCP behind a serial gateway.

    One row for each unit and round, with a column for each register. A register that a unit does not have, or that
    holds no number, is null, and a unit that does not answer has no row; both are counted, cost the others nothing, and
    are tried again at growing intervals. While no connection can be made the reason is told. What was read cannot be
    read again, so the runner keeps it in its ingest log; what happens between two rounds, or while nothing runs here,
    is not seen. Needs ``pip install 'tocsin[modbus]'``.

    Examples
    --------
    >>> celsius, running = {"address": 0, "type": "int16", "scale": 0.1}, {"address": 3, "table": "coil"}
    >>> registers = {"celsius": celsius, "running": running}
    >>> source = Modbus(host="10.0.0.7", units={"press-1": 1, "press-2": 2}, registers=registers)
    >>> source.output_schema().names
    ['key', 'time', 'celsius', 'running']

    MODBUS Application Protocol Specification V1.1b3; MODBUS Messaging on TCP/IP V1.0b.
    """

    REPLAYABLE: ClassVar[bool] = False
    PROMISE: ClassVar[str] = (
        "exactly once, of what has been read: what a register holds between two rounds is never read"
    )

    host: str
    """The device or gateway."""
    port: int = Field(default=502, ge=1, le=65535)
    """Its port."""
    framing: Literal["tcp", "rtu"] = "tcp"
    """``tcp``, or ``rtu`` for a gateway that passes serial frames through as they are."""
    units: Mapping[str, int]
    """Each machine, and the unit (device id) behind the address that it is."""
    registers: Mapping[str, Register]
    """The columns, and where each stands; the same for all units."""
    every: Duration = 1_000_000
    """Time between two rounds."""
    timeout: Duration = 2_000_000
    """How long a unit may take to answer."""

    @field_validator("units")
    @classmethod
    def _units(cls, units: Mapping[str, int]) -> Mapping[str, int]:
        if not units or any(not name or not 0 <= unit <= 255 for name, unit in units.items()):
            raise ValueError("name at least one machine with its unit, 0 to 255, as {press-1: 1}")
        return units

    @field_validator("registers")
    @classmethod
    def _registers(cls, registers: Mapping[str, Register]) -> Mapping[str, Register]:
        if not registers or {"key", "time"} & set(registers):
            raise ValueError("name at least one register, and none of them key or time")
        return registers

    def output_schema(self) -> pa.Schema:
        return pa.schema([KEY, TIME, *(pa.field(name, one.arrow) for name, one in self.registers.items())])

    def check(self, world: World) -> None:
        _library()

    def open(self, world: World) -> OneSplit:
        return OneSplit(lambda offset: ModbusReader(self, world.clock))


class ModbusReader(Reader):
    """Asks in a thread of its own: a device that is silent must not hold up whoever polls."""

    def __init__(self, source: Modbus, clock: Clock) -> None:
        self._source, self._clock = source, clock
        self._counted = Counter(rounds=0, connects=0, units_silent=0, registers_refused=0)
        self._rounds: deque[pa.RecordBatch] = deque()
        self._news = threading.Condition()
        self._trouble = ""
        self._closed = threading.Event()
        self._last_us = 0
        self._thread = threading.Thread(target=self._run, name=f"modbus {source.host}", daemon=True)
        self._thread.start()

    def poll(self, rows_max: int, timeout_s: float) -> tuple[Batch, Offset] | None:
        with self._news:
            if not self._rounds and timeout_s > 0:
                self._news.wait(timeout_s)
            if not self._rounds:
                if self._trouble:
                    raise Unavailable(self._trouble)
                return None
            taken = [self._rounds.popleft()]
            while self._rounds and sum(map(len, taken)) < rows_max:
                taken.append(self._rounds.popleft())
            self._news.notify_all()
        rows = as_one(taken)
        time_us = int(rows.column("time")[-1].value)
        return Batch(rows, time_us), {"time_us": time_us}

    def counters(self) -> Mapping[str, int]:
        return dict(self._counted)

    def close(self) -> None:
        self._closed.set()
        with self._news:
            self._news.notify_all()
        self._thread.join(self._source.timeout / 1e6 + 5)

    # the thread's side

    def _run(self) -> None:
        line = _Line(self._source, self._counted)
        try:
            due_s = time.monotonic()
            while not self._closed.wait(max(0.0, due_s - time.monotonic())):
                due_s = max(due_s + self._source.every / 1e6, time.monotonic())
                self._put(line.round())
        except (OSError, Unavailable) as error:
            with self._news:
                self._trouble = str(error)
                self._news.notify_all()
        finally:
            line.close()

    def _put(self, answers: Mapping[str, Sequence[Value]]) -> None:
        self._counted["rounds"] += 1
        if not answers:
            return
        # A clock that is set back must not make time run backwards: that would be late rows.
        time_us = self._last_us = max(self._clock.now_us(), self._last_us + 1)
        schema = self._source.output_schema()
        values = [
            pa.array([answer[i] for answer in answers.values()], field.type) for i, field in enumerate(list(schema)[2:])
        ]
        keys, times = as_keys(pa.array(list(answers), pa.string())), pa.array([time_us] * len(answers), pa.int64())
        rows = pa.RecordBatch.from_arrays([keys, as_times(times.to_numpy()), *values], schema=schema)
        with self._news:
            while len(self._rounds) >= _WAITING_MAX and not self._closed.is_set():
                self._news.wait(1.0)
            self._rounds.append(rows)
            self._news.notify_all()


class _Line:
    """One connection, and what is known of the units behind it."""

    def __init__(self, source: Modbus, counted: Counter[str]) -> None:
        self._source, self._counted = source, counted
        self._blocks = blocks(source.registers)
        self._alone: dict[tuple[int, str], float] = {}
        """Registers that a unit refused, and when to ask for them again: until then without them."""
        self._silent: dict[int, tuple[float, float]] = {}
        """Units that did not answer: when to ask again, and how long that was to wait."""
        pymodbus = _library()
        self._failed: tuple[type[Exception], ...] = (pymodbus.ModbusException, OSError)
        framer = pymodbus.FramerType.SOCKET if source.framing == "tcp" else pymodbus.FramerType.RTU
        self._client: Any = pymodbus.client.ModbusTcpClient(
            source.host, port=source.port, framer=framer, timeout=source.timeout / 1e6, retries=0
        )

    def close(self) -> None:
        self._client.close()

    def round(self) -> dict[str, list[Value]]:
        """Returns the values of each unit that answers; `Unavailable` if no connection can be made."""
        answers = {}
        for name, unit in self._source.units.items():
            if self._silent.get(unit, (0.0, 0.0))[0] > time.monotonic():
                continue
            if not self._client.connected:
                if not self._client.connect():
                    raise Unavailable(f"{self._source.host}:{self._source.port} does not accept a connection")
                self._counted["connects"] += 1
            values: dict[str, Value] = {}
            if all(self._take(unit, block, values) for block in self._blocks):
                answers[name] = [values.get(register) for register in self._source.registers]
                self._silent.pop(unit, None)
            else:
                self._is_silent(unit)
        return answers

    def _is_silent(self, unit: int) -> None:
        """Leave a unit alone for a while, longer each time: waiting for it holds up the others."""
        self._counted["units_silent"] += 1
        pause_s = min(max(2 * self._silent.get(unit, (0.0, 0.0))[1], self._source.timeout / 1e6), _AGAIN_S)
        self._silent[unit] = (time.monotonic() + pause_s, pause_s)
        self._client.close()  # a late answer must not be taken for that of the next request

    def _take(self, unit: int, block: RegisterBlock, values: dict[str, Value]) -> bool:
        """Read a block into values; returns False if the unit does not answer."""
        due = [name for name in block.names if self._alone.get((unit, name), 0.0) <= time.monotonic()]
        if len(due) == len(block.names):
            words = self._ask(unit, block)
            if words is None:
                return False
            if words:
                values.update(self._meant(block, words))
                return True
        for name in due:
            register = self._source.registers[name]
            own = RegisterBlock(register.table, register.address, register.width, (name,))
            words = self._ask(unit, own)
            if words is None:
                return False
            if words:
                values.update(self._meant(own, words))
                self._alone[(unit, name)] = 0.0
            else:
                self._counted["registers_refused"] += 1
                self._alone[(unit, name)] = time.monotonic() + _AGAIN_S
        return True

    def _meant(self, block: RegisterBlock, words: Sequence[int]) -> dict[str, Value]:
        meant = {}
        for name in block.names:
            register = self._source.registers[name]
            begin = register.address - block.begin
            meant[name] = register.value(words[begin : begin + register.width])
        return meant

    def _ask(self, unit: int, block: RegisterBlock) -> list[int] | None:
        """The words of a block; none if the unit refuses, None if it does not answer."""
        ask = {
            "holding": self._client.read_holding_registers,
            "input": self._client.read_input_registers,
            "coil": self._client.read_coils,
            "discrete": self._client.read_discrete_inputs,
        }[block.table]
        try:
            answer = ask(block.begin, count=block.count, device_id=unit)
        except self._failed as error:
            log.debug("unit %d: %s", unit, error)
            return None
        if answer.isError():
            return [] if answer.exception_code in _REFUSALS else None
        got = list(answer.bits if block.table in ("coil", "discrete") else answer.registers)
        return got[: block.count] if len(got) >= block.count else []


def _library() -> Any:
    try:
        import pymodbus
        import pymodbus.client
    except ImportError:
        raise MissingExtra("pymodbus", "modbus", "source modbus") from None
    return pymodbus


__all__ = ["Modbus"]
