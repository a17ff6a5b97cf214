"""Registers of Modbus devices: where each stands, which are read together, and what their words mean.

MODBUS Application Protocol Specification V1.1b3 (2012).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from tocsin.settings import Settings

WORDS_MAX, BITS_MAX = 125, 2_000
"""So many registers, or coils, fit into one answer."""
GAP_MAX = 8
"""Unused registers up to here are read along: cheaper than another request."""

Table = Literal["holding", "input", "coil", "discrete"]
Value = int | float | bool | None
_CODES: Mapping[str, str] = {
    "int16": "h", "uint16": "H", "int32": "i", "uint32": "I",
    "int64": "q", "uint64": "Q", "float32": "f", "float64": "d",
}  # fmt: skip


class Register(Settings):
    """One value of a device."""

    address: int = Field(ge=0, le=65535)
    """Where it stands, counted from 0: what a manual calls 40001 is address 0 of ``holding``."""
    table: Table = "holding"
    """``holding`` (manuals: 4xxxx), ``input`` (3xxxx), ``coil`` (0xxxx) or ``discrete`` (1xxxx)."""
    type: Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bool"] = "uint16"
    """How its words are to be read."""
    words: Literal["big", "little"] = "big"
    """Which of its words comes first: the high one (``big``) or the low one."""
    bit: int | None = Field(default=None, ge=0, le=15)
    """For a ``bool`` in a register: which bit, 0 the lowest."""
    scale: float = 1.0
    """What the number is multiplied by."""
    offset: float = 0.0
    """What is added after that."""

    @model_validator(mode="after")
    def _fits(self) -> Register:
        is_bit = self.table in ("coil", "discrete")
        if is_bit and "type" not in self.model_fields_set:
            object.__setattr__(self, "type", "bool")
        if is_bit and (self.type != "bool" or self.bit is not None):
            raise ValueError(f"a {self.table} is a bool; leave out type and bit")
        if not is_bit and (self.type == "bool") != (self.bit is not None):
            raise ValueError("a bool in a register needs its bit, and a bit needs type: bool")
        if self.address + self.width > 65536:
            raise ValueError(f"address {self.address} leaves no room for {self.type}")
        return self

    @property
    def width(self) -> int:
        """How many registers (or coils) it takes."""
        return 1 if self.type == "bool" else struct.calcsize(_CODES[self.type]) // 2

    @property
    def arrow(self) -> pa.DataType:
        """The type of its column."""
        if self.type == "bool":
            return pa.bool_()
        is_whole = not self.type.startswith("float") and self.scale == 1.0 and self.offset == 0.0
        return pa.int64() if is_whole else pa.float64()

    def value(self, words: Sequence[int]) -> Value:
        """Returns what these words mean; None for no number, and for one beyond 64 bits."""
        if self.type == "bool":
            return bool(words[0]) if self.bit is None else bool(words[0] >> self.bit & 1)
        ordered = words if self.words == "big" else words[::-1]
        (number,) = struct.unpack(">" + _CODES[self.type], struct.pack(f">{len(ordered)}H", *ordered))
        if self.arrow == pa.int64():
            return int(number) if number < 2**63 else None
        scaled = number * self.scale + self.offset
        return float(scaled) if scaled - scaled == 0 else None


@dataclass(frozen=True)
class RegisterBlock:
    """Registers that are read with one request."""

    table: Table
    begin: int
    count: int
    names: tuple[str, ...]


def blocks(registers: Mapping[str, Register]) -> list[RegisterBlock]:
    """Returns which registers to read together: neighbours of a table, as many as an answer holds.

    Examples
    --------
    >>> near = {"a": Register(address=0), "b": Register(address=4, type="float32"), "c": Register(address=900)}
    >>> [(block.begin, block.count, block.names) for block in blocks(near)]
    [(0, 6, ('a', 'b')), (900, 1, ('c',))]
    """
    made: list[RegisterBlock] = []
    for name in sorted(registers, key=lambda name: (registers[name].table, registers[name].address)):
        register = registers[name]
        end = register.address + register.width
        last = made[-1] if made else None
        room = BITS_MAX if register.table in ("coil", "discrete") else WORDS_MAX
        if last is not None and last.table == register.table:
            joined = max(end, last.begin + last.count) - last.begin
            if register.address <= last.begin + last.count + GAP_MAX and joined <= room:
                made[-1] = RegisterBlock(last.table, last.begin, joined, (*last.names, name))
                continue
        made.append(RegisterBlock(register.table, register.address, register.width, (name,)))
    return made
