"""What a job is made of where it is submitted: a function is shipped by its name, and comes to be in Flink's workers.

What does the work takes a second of CPU time to import, so it is not imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

ELEMENT = Types.ROW([Types.INT(), Types.ROW([Types.INT(), Types.LONG(), Types.PRIMITIVE_ARRAY(Types.BYTE())])])


@dataclass(frozen=True)
class Job:
    """What the functions need to know, on whatever machine they run."""

    name: str
    """Of the pipeline."""
    file: str
    """The pipeline file; its variables and secrets are taken from the environment of each worker."""
    settings: dict[str, str]
    """What is set beside the file."""
    directory: str
    """Where relative paths start."""
    run: str
    """A name for this run; one that was interrupted goes on under the same name."""
    groups: int
    numbers: dict[str, dict[str, int]]
    """Of readers and sinks by their names, the same ones for ever, however the pipeline is changed."""
    change: str
    """The start that this is."""
    forget: list[str]
    """Steps that begin anew with it."""
    addresses: dict[str, list[int]]
    """The keys by which Flink brings elements to readers, groups and sinks, each by its number."""

    def keys(self, kind: str) -> list[int]:
        """Returns the keys of all readers or sinks that there are."""
        return [self.addresses[kind][number] for number in self.numbers[kind].values()]

    def name_of(self, kind: str, key: int) -> str:
        """Returns which reader or sink has this key."""
        number = self.addresses[kind].index(key)
        return next(name for name, one in self.numbers[kind].items() if one == number)


class Shipped(KeyedProcessFunction):  # type: ignore[misc]
    """One of `functions.FUNCTIONS`, by its name."""

    def __init__(self, name: str, job: Job) -> None:
        self.name, self.job = name, job

    def open(self, runtime_context: RuntimeContext) -> None:
        from tocsin.flink.functions import FUNCTIONS

        self.function: Any = FUNCTIONS[self.name](self.job)
        self.function.open(runtime_context)

    def close(self) -> None:
        self.function.close()

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        rows: Iterator[Row] = self.function.process_element(value, ctx)
        return rows

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        rows: Iterator[Row] = self.function.on_timer(timestamp, ctx)
        return rows
