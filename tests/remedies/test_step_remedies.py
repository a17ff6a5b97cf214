"""What the messages of steps advise is done here, and the pipeline is right then."""

# ruff: noqa: E501 (what stands in a pipeline file, and what a message says, stays in one line)

from __future__ import annotations

from advice import Remedy, followed, plan, remedies, steps

STEPS = remedies(
    steps,
    ("bases", "cast it first", "zscore: {of: other}", "cast: {other: float}, zscore: {of: other}"),
    (
        "bases",
        "there is one already; rename it with select",
        "derive: {score: '1.0'}, zscore",
        "derive: {score: '1.0'}, select: [key, time, value, {old: score}], zscore",
    ),
    ("condition/derive", "name at least one column", "derive: {columns: {}}", "derive: {columns: {twice: value * 2}}"),
    (
        "condition/dedupe",
        "name others with by",
        "window: {every: 1m, collect: [value]}, dedupe",
        "window: {every: 1m, collect: [value]}, dedupe: {by: [key, time]}",
    ),
    (
        "condition/pivot",
        "call it otherwise: {column: signal}",
        "pivot: {signal: other, value: value, columns: [time]}",
        "pivot: {signal: other, value: value, columns: {moment: time}}",
    ),
    (
        "condition/window",
        "write it as mean(value), p95(value) or count(*)",
        "window: {every: 1m, compute: [mean]}",
        *(f"window: {{every: 1m, compute: ['{call}']}}" for call in ("mean(value)", "p95(value)", "count(*)")),
    ),
    (
        "condition/window",
        "take a longer every",
        "window: {every: 1s, size: 1h, compute: [mean(value)]}",
        "window: {every: 1m, size: 1h, compute: [mean(value)]}",
    ),
    (
        "condition/window",
        "take out gap and size",
        "window: {every: 1m, size: 1h, allowed_lateness: 1m, compute: [mean(value)]}",
        "window: {every: 1m, allowed_lateness: 1m, compute: [mean(value)]}",
    ),
    (
        "condition/window",
        "name the figure otherwise",
        "window: {every: 1m, compute: {time: mean(value)}}",
        "window: {every: 1m, compute: {middle: mean(value)}}",
    ),
    (
        "condition/_clock",
        "name one as Europe/Berlin or UTC",
        "window: {every: 1h, zone: Mars/Base, compute: [mean(value)]}",
        "window: {every: 1h, zone: Europe/Berlin, compute: [mean(value)]}",
        "window: {every: 1h, zone: UTC, compute: [mean(value)]}",
    ),
    ("detect/categorize", "name another with of", "categorize: {of: value}", "categorize: {of: other}"),
    ("values/expressions", "compare it with something", "keep: value + 1", "keep: value + 1 > 2"),
    (
        "values/expressions",
        "give it a type: cast(null as double)",
        "derive: {gone: 'null'}",
        "derive: {gone: cast(null as double)}",
    ),
    (
        "estimate/downtime",
        "give either state or of, not both",
        "downtime: {state: other, of: value}",
        "downtime: {state: other}",
        "downtime: {of: value, running_above: 1}",
    ),
    (
        "estimate/downtime",
        "give state, of (with running_above) or heartbeat",
        "downtime",
        "downtime: {state: other}",
        "downtime: {of: value, running_above: 1}",
        "downtime: {heartbeat: 1m}",
    ),
    (
        "estimate/forecast",
        "so take it out of inputs",
        "forecast: {method: ridge, inputs: [value, good]}",
        "forecast: {method: ridge, inputs: [good]}",
    ),
    (
        "estimate/forecast",
        "take fewer lags or inputs",
        "forecast: {method: ridge, lags: 50, inputs: [good, on, a, b, c, d, e, f, g]}",
        "forecast: {method: ridge, lags: 4, inputs: [good, on]}",
        "forecast: {method: ridge, lags: 50}",
    ),
    (
        "estimate/spectrum",
        "leave out samples, which is for one a row",
        "window: {every: 1m, collect: [value]}, spectrum: {of: value, rate: 1000, samples: 64}",
        "window: {every: 1m, collect: [value]}, spectrum: {of: value, rate: 1000}",
    ),
    (
        "notify/alarm",
        "give either of_last or within, not both",
        "zscore, alarm: {score: 75, count: 2, of_last: 3, within: 1m}",
        "zscore, alarm: {score: 75, count: 2, of_last: 3}",
        "zscore, alarm: {score: 75, count: 2, within: 1m}",
    ),
)

KEYS_AND_TIMES = remedies(
    plan,
    (
        "condition/rekey",
        "name either the column that says which machine a row is of, or constant: NAME for all",
        "key: {of: machine, constant: press}",
        "key: {of: machine}",
        "key: {constant: press}",
    ),
    ("condition/rekey", "write columns in braces: {site}/{machine}", "key: '{site'", "key: '{site}/{machine}'"),
    (
        "condition/event_time",
        "name its column, as column: start",
        "time: {offset: good}",
        "time: {column: at, offset: good}",
    ),
    (
        "condition/event_time",
        "write it as Europe/Berlin",
        "{decode: {json: {columns: {machine: text, at: text, value: float}}}, time: {column: at, zone: Mars/Base}}",
        "{decode: {json: {columns: {machine: text, at: text, value: float}}}, time: {column: at, zone: Europe/Berlin}}",
    ),
    (
        "condition/event_time",
        "name the mark otherwise",
        "time: {column: at, mark: site}",
        "time: {column: at, mark: how}",
    ),
    (
        "condition/window",
        "take keys_apart out of time:, or gap out of here",
        "{time: {column: at, keys_apart: 1h}, streams: {s: {steps: [window: {gap: 1m, compute: [mean(value)]}], sinks: [{delta: t}]}}}",
        "{time: {column: at}, streams: {s: {steps: [window: {gap: 1m, compute: [mean(value)]}], sinks: [{delta: t}]}}}",
        "{time: {column: at, keys_apart: 1h}, streams: {s: {steps: [window: {every: 1m, compute: [mean(value)]}], sinks: [{delta: t}]}}}",
    ),
)


@followed(STEPS + KEYS_AND_TIMES)
def test_what_a_step_advises(remedy: Remedy) -> None:
    remedy.follow()
