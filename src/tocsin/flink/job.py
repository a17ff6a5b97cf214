"""The program that Flink runs to build the job: ``flink run -py job.py -- JOB``, where JOB is JSON of `Job`'s fields.

seeds -> Read (a reader of each source) -> Step (a group of keys each) -> epochs -> Keep (a sink each)
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from pyflink.common import Configuration
from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.datastream.data_stream import KeyedStream
from pyflink.java_gateway import get_gateway

from tocsin.flink.shipped import ELEMENT, Job, Shipped


def addresses(count: int, groups: int) -> list[int]:
    """Returns a key for each of so many numbers, such that they are spread evenly over Flink's key groups.

    Flink finds a key's group by a hash: of consecutive numbers several would share a group, and others have none. The
    key of a number does not depend on how many there are: what was remembered under it stays where it is.
    """
    jvm = get_gateway().jvm
    group_of = jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup
    row = jvm.org.apache.flink.types.Row
    stride = next(one for one in range(round(0.618 * groups), groups + 2) if math.gcd(one, groups) == 1)
    wanted = [number * stride % groups for number in range(count)]
    keys: dict[int, list[int]] = {at: [] for at in wanted}
    key = 0
    while any(len(keys[at]) < wanted.count(at) for at in keys):
        if (at := group_of(_row_of(row, key), groups)) in keys:
            keys[at].append(key)
        key += 1
    return [keys[at][number // groups] for number, at in enumerate(wanted)]


def _row_of(row: Any, key: int) -> Any:
    one = row(1)
    one.setField(0, key)
    return one


def keyed(stream: Any) -> KeyedStream:
    """Returns elements by their address, which is there already: PyFlink would call Python to find it."""
    jvm = get_gateway().jvm
    key = jvm.org.apache.flink.api.java.typeutils.RowTypeInfo
    types = get_gateway().new_array(jvm.org.apache.flink.api.common.typeinfo.TypeInformation, 1)
    types[0] = jvm.org.apache.flink.api.common.typeinfo.Types.INT
    return KeyedStream(
        stream.keyBy(jvm.KeyByKeySelector(), key(types)), ELEMENT.get_field_types()[1], DataStream(stream)
    )


def build(environment: StreamExecutionEnvironment, settings: dict[str, Any]) -> None:
    """Put the job together."""
    job = Job(**settings, addresses={})
    kinds = {kind: max(numbers.values()) + 1 for kind, numbers in job.numbers.items()} | {"groups": job.groups}
    environment.set_max_parallelism(job.groups)
    job.addresses.update({kind: addresses(count, job.groups) for kind, count in kinds.items()})
    gateway, type = get_gateway(), ELEMENT.get_java_type_info()
    java = gateway.jvm.tocsin

    def ints(values: list[int]) -> Any:
        array = gateway.new_array(gateway.jvm.int, len(values))
        for at, one in enumerate(values):
            array[at] = one
        return array

    def through(stream: Any, name: str) -> Any:
        made = keyed(stream).process(Shipped(name, job), ELEMENT).name(name).uid(name)
        return made._j_data_stream

    environment_ = environment._j_stream_execution_environment
    seeds = environment_.addSource(java.Seeds(ints(job.keys("readers"))), "seeds", type).uid("seeds")
    read = through(seeds, "read")
    stepped = through(read, "step")
    epochs = stepped.transform("epochs", type, java.Epochs(ints(job.keys("sinks"))))
    told = epochs.setParallelism(1).uid("epochs")
    through(told, "keep")
    environment.execute(job.name)


if __name__ == "__main__":
    build(StreamExecutionEnvironment.get_execution_environment(Configuration()), json.loads(sys.argv[-1]))
