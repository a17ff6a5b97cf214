"""Benchmark J1 as a job of Flink SQL: what `flink.py` is compared with. ``flink run -py flink_sql.py -- IN OUT``.

Readings of 20 s of each machine, their mean and standard deviation, and those that are far from it: a window join,
which is how Flink SQL gives every row of a window its aggregate.
"""

from __future__ import annotations

import sys

from pyflink.table import EnvironmentSettings, TableEnvironment

WINDOWS = "TABLE(TUMBLE(TABLE readings, DESCRIPTOR(ts), INTERVAL '20' SECOND))"
STATEMENTS = (
    """
    CREATE TABLE readings (
        machine STRING, ts TIMESTAMP_LTZ(3), `value` DOUBLE, WATERMARK FOR ts AS ts - INTERVAL '2' SECOND
    ) WITH ('connector' = 'filesystem', 'path' = '{source}', 'format' = 'json',
            'json.timestamp-format.standard' = 'ISO-8601')
    """,
    """
    CREATE TABLE anomalies (machine STRING, ts TIMESTAMP_LTZ(3), `value` DOUBLE, z DOUBLE)
    WITH ('connector' = 'filesystem', 'path' = '{target}', 'format' = 'json',
          'json.timestamp-format.standard' = 'ISO-8601')
    """,
    """
    INSERT INTO anomalies
    SELECT r.machine, r.ts, r.`value`, (r.`value` - s.mean) / s.deviation
    FROM (SELECT * FROM {windows}) r
    JOIN (
        SELECT machine, window_start, window_end, AVG(`value`) AS mean, STDDEV_POP(`value`) AS deviation
        FROM {windows} GROUP BY machine, window_start, window_end
    ) s ON r.machine = s.machine AND r.window_start = s.window_start AND r.window_end = s.window_end
    WHERE s.deviation > 0 AND ABS((r.`value` - s.mean) / s.deviation) > 1.29
    """,
)


def main(source: str, target: str) -> None:
    environment = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for statement in STATEMENTS:
        result = environment.execute_sql(statement.format(source=source, target=target, windows=WINDOWS))
    result.wait()


if __name__ == "__main__":
    main(sys.argv[-2], sys.argv[-1])
