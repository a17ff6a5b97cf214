"""The program that Flink runs to build the job: ``flink run -py job.py -- JOB``, where JOB is JSON of `Job`'s fields.

seeds -> Read (a reader of each source) -> Step (a group of keys each) -> epochs -> Keep (a sink each)
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pyflink.common import Configuration
from pyflink.datastream import DataStream, KeyedProcessFunction, StreamExecutionEnvironment
from pyflink.datastream.data_stream import KeyedStream
from pyflink.java_gateway import get_gateway

from tocsin.flink.functions import ELEMENT, Job, Keep, Read, Step, readers_of, sinks_of


def addresses(count: int, groups: int) -> list[int]:
    """Returns a key for each of so many tasks, such that they are spread evenly over Flink's key groups.

    Flink finds a key's group by a hash: of consecutive numbers several would share a group, and others have none.
    """
    jvm = get_gateway().jvm
    group_of = jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup
    row = jvm.org.apache.flink.types.Row
    wanted = [number * groups // count for number in range(count)] if count <= groups else None
    assert wanted is not None, f"{count} tasks, but only {groups} groups"
    keys: dict[int, int] = {}
    key = 0
    while len(keys) < count:
        at = group_of(_row_of(row, key), groups)
        if at in wanted and at not in keys:
            keys[at] = key
        key += 1
    return [keys[at] for at in wanted]


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
    plan = job.plan()
    kinds = {"readers": len(readers_of(plan)), "groups": job.groups, "sinks": len(sinks_of(plan))}
    environment.set_max_parallelism(job.groups)
    job.addresses.update({kind: addresses(count, job.groups) for kind, count in kinds.items()})
    gateway, type = get_gateway(), ELEMENT.get_java_type_info()
    java = gateway.jvm.tocsin

    def ints(values: list[int]) -> Any:
        array = gateway.new_array(gateway.jvm.int, len(values))
        for at, one in enumerate(values):
            array[at] = one
        return array

    def through(stream: Any, function: KeyedProcessFunction, name: str) -> Any:
        made = keyed(stream).process(function, ELEMENT).name(name).uid(name)
        return made._j_data_stream

    environment_ = environment._j_stream_execution_environment
    seeds = environment_.addSource(java.Seeds(ints(job.addresses["readers"])), "seeds", type).uid("seeds")
    read = through(seeds, Read(job), "read")
    stepped = through(read, Step(job), "step")
    epochs = stepped.transform("epochs", type, java.Epochs(ints(job.addresses["sinks"])))
    told = epochs.setParallelism(1).uid("epochs")
    through(told, Keep(job), "keep")
    environment.execute(plan.name)


if __name__ == "__main__":
    build(StreamExecutionEnvironment.get_execution_environment(Configuration()), json.loads(sys.argv[-1]))
