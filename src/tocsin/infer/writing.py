"""The pipeline file that stands for a conclusion, with comments that say why each line is as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.bases import VERDICT
from tocsin.decode._signals import SIGNAL, VALUE
from tocsin.detect.health import Health
from tocsin.infer.conclude import Conclusion
from tocsin.infer.delimited import split_name
from tocsin.infer.numbers import may_be_number
from tocsin.infer.sample import SampledField, last_step
from tocsin.infer.signals import BEYOND, short_names
from tocsin.values.names import is_about_the_record

RESERVED = {"key", "received", "late", *(field.name for field in (*VERDICT, *Health.EXTRA))}
"""What key, source and detector add to the columns."""
LEARN_MIN, LEARN_MAX = 20, 500
"""After how many readings a machine is judged, by how many there are."""


def pipeline_file(
    made: Conclusion, name: str, source: Mapping[str, Any], *, folder: str = "tocsin-data", readings: int | None = None,
    told: Sequence[tuple[str, str]] = (),
) -> str:  # fmt: skip
    """Return the text of a pipeline file.

    ``source`` is the source with its settings; ``readings`` says how many of each machine there will be, if they have
    an end; ``told`` goes above it as comments.
    """
    columns = _Columns(made)
    named = made.signals.named_by is not None or made.is_open
    health = _judged(made, columns, readings)
    above = [f"# {what}: {text}" for what, text in told]
    lines = [
        "# Written by `tocsin watch`. What was concluded from a sample of the source:",
        *above,
        f"name: {name}",
        f"folder: {_flow(folder)}",
        "",
        "source:",
        f"  {_setting(source)}",
        *_decode(made, columns),
        f"key: {_key(made, columns, name)}".ljust(33) + "# which machine a row is of",
        *_time(made, columns),
        "",
        *_streams(
            f": {_flow(health)}" if health else "",
            None if named else columns.of[made.signals.fields[0].path],
            columns.cast,
            _seen(made) if made.is_open else (),
        ),
        *_named(made, columns),
    ]
    return "\n".join(lines) + "\n"


def _named(made: Conclusion, columns: _Columns) -> list[str]:
    """What people call the signals, and their units, where columns say it; a name without its unit is what is shown."""
    if made.signals.named_by is not None:
        return []
    lines = []
    for one in made.signals.fields:
        name, _ = split_name(one.path)
        said = {
            "name": name if name != columns.of.get(one.path, one.path) else None,
            "unit": made.form.units.get(one.path),
        }
        if said["unit"]:
            lines.append(f"    {_flow(columns.of[one.path])}: {_flow(said)}")
    return (
        ["", "assets:", "  signals:                       # what people call them, and their units", *lines]
        if lines
        else []
    )


def host_file(name: str, folder: str, told: Sequence[tuple[str, str]]) -> str:
    """Return the text of a pipeline file for this computer, which knows its signals itself."""
    lines = [
        "# Written by `tocsin watch`:", *(f"# {what}: {text}" for what, text in told),
        f"name: {name}", f"folder: {_flow(folder)}", "", "source:", "  host: {}", "", *_streams("", None, []),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def sparkplug_file(name: str, source: Mapping[str, Any], folder: str, told: Sequence[tuple[str, str]]) -> str:
    """Return the text of a pipeline file for edge nodes of Sparkplug B, whose births say what their metrics are."""
    streams = _streams("", None, [])
    at = next(i for i, line in enumerate(streams) if "rekey:" in line)
    streams[at : at + 1] = [
        "    steps:",
        "      - keep: metric is not null and quality = 'good' and not historical",
        "      - derive: {signal: metric}",
        '      - rekey: "{key}/{signal}"',
    ]
    lines = [
        "# Written by `tocsin watch`:", *(f"# {what}: {text}" for what, text in told),
        f"name: {name}", f"folder: {_flow(folder)}", "", "source:", f"  {_setting(source)}", "decode: sparkplug",
        "key: machine".ljust(33) + "# group/node, or group/node/device", "time: {column: at, lateness: 5s}", "",
        *streams,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


class _Columns:
    """The columns to declare, by a name that a column can have; and which of them is what."""

    def __init__(self, made: Conclusion) -> None:
        self.written: dict[str, Any] = {}
        self.of: dict[str, str] = {}
        self.cast: list[str] = []
        form, time = made.form, made.time
        if not form.decoder:  # the source has columns of its own
            self.of = {one.path: one.path for one in form.fields}
            return
        self._is_flat = form.decoder == "csv"
        self._reserved = RESERVED | ({SIGNAL, VALUE} if made.is_open else set())
        self._names = short_names([one.path for one in made.signals.fields])
        for path in time.paths:
            if path != "topic":
                settings: dict[str, Any] = {"type": "text"}
                if len(time.paths) == 1:
                    zone = made.zone if time.is_local else None
                    settings = {"type": "timestamp", "unit": time.unit, "zone": zone, "format": time.format}
                self._add(path, settings)
        signals = {one.path for one in made.signals.fields}
        if made.machine.path is not None and made.machine.path not in self.of:
            named_by = form.get(made.machine.path)
            is_int = named_by.is_number and form.decoder == "json" and not named_by.is_quoted
            self._add(made.machine.path, {"type": "int" if is_int else "category"})
        if (name := made.signals.named_by) not in (None, "topic"):
            self._add(str(name), {"type": "category"}, "signal")
        for one in () if made.is_open else made.signals.fields:
            self._signal(one, "value" if made.signals.named_by is not None else None)
        for one in form.fields:
            if one.path not in self.of and one.path not in signals and _is_label(one):
                self._add(one.path, {"type": "text", "optional": True})

    def _signal(self, one: SampledField, name: str | None) -> None:
        words = [word for word in one.words if not may_be_number(word)]
        settings: dict[str, Any] = {"type": "text" if one.is_quoted else "float", "optional": True}
        if words and not one.is_quoted:
            settings["null"] = words[:20]
        column = self._add(one.path, settings, name)
        if one.is_quoted:
            self.cast.append(column)

    def _add(self, path: str, settings: Mapping[str, Any], name: str | None = None) -> str:
        base = name or _slug(path if self._is_flat else self._names.get(path, last_step(path)))
        column, n = base, 2
        taken = {other.casefold() for other in self.written} | (self._reserved if name is None else set())
        while column.casefold() in taken or (column == "time" and settings.get("type") != "timestamp"):
            column, n = f"{base}_{n}", n + 1
        told = {key: value for key, value in settings.items() if value is not None}
        plain = path if self._is_flat else path.replace("\\.", ".") if "." not in path.replace("\\.", "") else path
        if plain != column:
            told = {"path": path, **told}
        self.written[column] = told["type"] if told.keys() == {"type"} else told
        self.of[path] = column
        return column


def _is_label(one: SampledField) -> bool:
    """Whether a text goes with the readings, such as a product or a state: few different words."""
    if not one.given or one.is_number or not all(isinstance(value, str) for value in one.given):
        return False
    if "." in one.path or one.path.startswith("@") or not one.path.isprintable():
        return False
    return len(one.distinct) <= 20 and all(len(value) <= 60 for value in one.distinct)


def _slug(path: str) -> str:
    slug = re.sub(r"\W+", "_", path.replace("°", "deg").replace("%", "percent")).strip("_") or "column"
    return f"c_{slug}" if slug[0].isdigit() else slug


def _decode(made: Conclusion, columns: _Columns) -> list[str]:
    """How bytes become rows; nothing where the source has columns of its own."""
    settings = dict(made.form.settings)
    if not made.form.decoder:
        return []
    if made.is_open:
        settings |= {"signals": "auto", "signals_exclude": _excluded(made)}
    if made.machine.template is not None:
        settings["topic"] = made.machine.template
    elif made.time.paths == ("topic",):
        settings["topic"] = "{recorded}"
    return [
        "decode:                          # from bytes to rows",
        f"  {made.form.decoder}:",
        *(f"    {key}: {_flow(value)}" for key, value in settings.items()),
        f"    columns:{'' if columns.written else ' {}'}",
        *(f"      {column}: {_flow(told)}" for column, told in columns.written.items()),
    ]


def _seen(made: Conclusion) -> list[str]:
    """The signals of the sample, by the names that the decoder gives them."""
    beyond = [path for path, reason in made.signals.left_out.items() if reason == BEYOND]
    return [path.replace("\\.", ".") for path in (*(one.path for one in made.signals.fields), *beyond)]


def _excluded(made: Conclusion) -> list[str]:
    """What fields are no signals: those about the record, and those that the sample has shown to be none."""
    others = [
        path.replace("\\.", ".")
        for path, reason in made.signals.left_out.items()
        if reason != BEYOND and not is_about_the_record(path)
    ]
    return ["about_the_record", *(name for name in others if not set(name) & set("{}"))]


def _key(made: Conclusion, columns: _Columns, name: str) -> str:
    machine = made.machine
    if machine.path is not None:
        return columns.of[machine.path]
    return _flow(machine.key) if machine.key is not None else _flow({"constant": name})


def _time(made: Conclusion, columns: _Columns) -> list[str]:
    time = made.time
    if not time.paths:
        if made.rate is None:
            return ["# No time: the arrival of each reading counts."]
        return [f"time: {{rate: {made.rate:g}}}".ljust(33) + "# rows are counted, from 1970 on"]
    # Where machines stand one after the other, time begins again with each: then no row is late.
    settings: dict[str, Any] = {"lateness": "36500d" if made.is_in_blocks else f"{time.lateness_s:.0f}s"}
    if time.is_ahead:
        settings["slack"] = "36500d"
    if time.paths == ("topic",):
        settings = {"column": "recorded", "format": time.format, "zone": made.zone, "rate": made.rate, **settings}
    elif len(time.paths) > 1:
        names = [columns.of[path] for path in time.paths]
        settings = {"column": names, "format": time.format, "zone": made.zone, **settings}
    else:
        settings = {"column": columns.of[time.paths[0]], **settings}
        if not made.form.decoder:
            settings |= {"unit": time.unit, "format": time.format, "zone": made.zone}
    return [f"time: {_flow(settings)}"]


def _judged(made: Conclusion, columns: _Columns, readings: int | None) -> dict[str, Any]:
    """The settings of `health`."""
    settings: dict[str, Any] = {}
    if made.signals.named_by is None and not made.is_open:
        names = [columns.of[one.path] for one in made.signals.fields]
        settings["of"] = names if len(names) > 1 else names[0]
    learn = None if readings is None else max(LEARN_MIN, min(LEARN_MAX, readings // 4))
    return settings | ({"learn": learn} if learn not in (None, LEARN_MAX) else {})


def _streams(health: str, first: str | None, cast: Sequence[str], seen: Sequence[str] = ()) -> list[str]:
    """The streams; ``first`` is the first of several judged columns, None where each signal is a series of its own.

    ``seen`` are the signals of a sample beside which there may be others.
    """
    named = first is None
    steps = [f"    steps: [cast: {_flow(dict.fromkeys(cast, 'float'))}]"] if cast else []
    series = [
        "  series:                        # one for each signal of each machine",
        "    from: readings",
        '    steps: [rekey: "{key}/{signal}"]',
    ]
    return [
        "streams:",
        "  readings:                      # every reading, kept once, in a table",
        *steps,
        "    sinks: [delta: readings]",
        *(series if named else []),
        "  judged:                        # against what each machine was like while it was well",
        f"    from: {'series' if named else 'readings'}",
        "    steps:",
        f"      - health{health}",
        "  anomalies:",
        "    from: judged",
        "    steps: [keep: score >= 75]",
        "    sinks: [delta: anomalies]",
        "  alarms:                        # few and clear: raised once, cleared when it is over",
        "    from: judged",
        "    steps:",
        f"      - alarm: {{rule: abnormal, of: {first or 'value'}, score: 75}}",
        *(["      - cases: {depth: 1}        # one case for each machine"] if named else []),
        "    sinks: [delta: alarms]",
        "  bell:                          # who is told; add mail, Teams ... to the list (see notify)",
        "    from: alarms",
        "    steps: [keep: ring]",
        "    sinks:",
        '      - notify: {to: console, text: "{severity}: {message}"}',
        *(_told(seen) if seen else []),
        "",
        "page:",
        "  streams: [judged, alarms]",
    ]


def _told(seen: Sequence[str]) -> list[str]:
    """The streams that tell signals which were not in the sample."""
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in seen)
    return [
        "  signals:                       # the first reading of each signal of each machine",
        "    from: source.new",
        "    sinks: [delta: new_signals]",
        "  later:                         # signals that were not there when this file was written",
        "    from: signals",
        f"    steps: [keep: {_flow(f'signal not in ({names})')}]",
        "    sinks:",
        '      - notify: {to: console, text: "{key} has a new signal: {signal}"}',
    ]


def _setting(part: Mapping[str, Any]) -> str:
    ((name, settings),) = part.items()
    return f"{name}: {_flow(settings)}"


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, Mapping):
        shown = [f"{_flow(str(key))}: {_flow(inner)}" for key, inner in value.items() if inner is not None]
        return "{" + ", ".join(shown) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w/.-]*", value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
"""What bare would be no text in YAML."""
