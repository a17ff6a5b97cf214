"""The pipeline file that stands for a conclusion, with comments that say why each line is as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.infer.conclude import Conclusion
from tocsin.infer.sample import Field, last_step

RESERVED = {"key", "received", "late"}
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
    above = [f"# {what}: {text}" for what, text in told]
    lines = [
        "# Written by `tocsin watch`. What was concluded from a sample of the source:", *above,
        f"name: {name}",
        f"folder: {_flow(folder)}",
        "",
        "source:",
        f"  {_setting(source)}",
        "decode:                          # from bytes to rows",
        f"  {made.form.decoder}:",
        *(f"    {key}: {_flow(value)}" for key, value in _decoder(made, columns).items()),
        "    columns:",
        *(f"      {column}: {_flow(settings)}" for column, settings in columns.written.items()),
        f"key: {_key(made, columns, name)}".ljust(33) + "# which machine a row is of",
        *_time(made, columns),
        "",
        *_streams(made, columns, readings),
    ]
    return "\n".join(lines) + "\n"


class _Columns:
    """The columns to declare, by a name that a column can have; and which of them is what."""

    def __init__(self, made: Conclusion) -> None:
        self.written: dict[str, Any] = {}
        self.of: dict[str, str] = {}
        self.cast: list[str] = []
        form, time = made.form, made.time
        self._is_flat = form.decoder == "csv"
        for path in time.paths:
            if path != "topic":
                settings: dict[str, Any] = {"type": "text"}
                if len(time.paths) == 1:
                    zone = made.zone if time.is_local else None
                    settings = {"type": "timestamp", "unit": time.unit, "zone": zone, "format": time.format}
                self._add(path, settings)
        signals = {one.path for one in made.signals.fields}
        if made.machine.path is not None and made.machine.path not in self.of:
            is_int = form.get(made.machine.path).is_number and form.decoder == "json"
            self._add(made.machine.path, {"type": "int" if is_int else "category"})
        if (name := made.signals.named_by) not in (None, "topic"):
            self._add(str(name), {"type": "category"}, "signal")
        for one in made.signals.fields:
            self._signal(one, "value" if made.signals.named_by is not None else None)
        for one in form.fields:
            if one.path not in self.of and one.path not in signals and _is_label(one):
                self._add(one.path, {"type": "text", "optional": True})

    def _signal(self, one: Field, name: str | None) -> None:
        words = [word for word in one.words if word.lower() not in ("nan", "null", "n/a", "na", "-")]
        settings: dict[str, Any] = {"type": "text" if one.is_quoted else "float", "optional": True}
        if words and not one.is_quoted:
            settings["null"] = words[:20]
        column = self._add(one.path, settings, name)
        if one.is_quoted:
            self.cast.append(column)

    def _add(self, path: str, settings: Mapping[str, Any], name: str | None = None) -> str:
        base = name or _slug(path if self._is_flat else last_step(path))
        column, n = base, 2
        while column.casefold() in {*(other.casefold() for other in self.written), *RESERVED} or (
            column == "time" and settings.get("type") != "timestamp"
        ):
            column, n = f"{base}_{n}", n + 1
        told = {key: value for key, value in settings.items() if value is not None}
        plain = path if self._is_flat else path.replace("\\.", ".") if "." not in path.replace("\\.", "") else path
        if plain != column:
            told = {"path": path, **told}
        self.written[column] = told["type"] if told.keys() == {"type"} else told
        self.of[path] = column
        return column


def _is_label(one: Field) -> bool:
    """Whether a text goes with the readings, such as a product or a state: few different words."""
    if not one.given or one.is_number or not all(isinstance(value, str) for value in one.given):
        return False
    if "." in one.path or one.path.startswith("@") or not one.path.isprintable():
        return False
    return len(one.distinct) <= 20 and all(len(value) <= 60 for value in one.distinct)


def _slug(path: str) -> str:
    slug = re.sub(r"\W+", "_", path.replace("°", "deg").replace("%", "percent")).strip("_") or "column"
    return f"c_{slug}" if slug[0].isdigit() else slug


def _decoder(made: Conclusion, columns: _Columns) -> dict[str, Any]:
    settings = dict(made.form.settings)
    if made.machine.template is not None:
        settings["topic"] = made.machine.template
    elif made.time.paths == ("topic",):
        settings["topic"] = "{recorded}"
    return settings


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
    settings: dict[str, Any] = {"lateness": f"{time.lateness_s:g}s"}
    if time.paths == ("topic",):
        settings = {"column": "recorded", "format": time.format, "zone": made.zone, "rate": made.rate, **settings}
    elif len(time.paths) > 1:
        names = [columns.of[path] for path in time.paths]
        settings = {"column": names, "format": time.format, "zone": made.zone, **settings}
    else:
        settings = {"column": columns.of[time.paths[0]], **settings}
    return [f"time: {_flow(settings)}"]


def _streams(made: Conclusion, columns: _Columns, readings: int | None) -> list[str]:
    learn = None if readings is None else max(LEARN_MIN, min(LEARN_MAX, readings // 4))
    settings: dict[str, Any] = {}
    named = made.signals.named_by is not None
    if not named:
        names = [columns.of[one.path] for one in made.signals.fields]
        settings["of"] = names if len(names) > 1 else names[0]
    if learn is not None and learn != LEARN_MAX:
        settings["learn"] = learn
    cast = [f"    steps: [cast: {_flow(dict.fromkeys(columns.cast, 'float'))}]"] if columns.cast else []
    series = ["  series:                        # one for each signal of each machine", "    from: readings", "    steps: [rekey: \"{key}/{signal}\"]"]
    health = f"health: {_flow(settings)}" if settings else "health"
    return [
        "streams:",
        "  readings:                      # every reading, kept once, in a table",
        *cast,
        "    sinks: [delta: readings]",
        *(series if named else []),
        "  judged:                        # against what each machine was like while it was well",
        f"    from: {'series' if named else 'readings'}",
        "    steps:",
        f"      - {health}",
        "  anomalies:",
        "    from: judged",
        "    steps: [keep: score >= 75]",
        "    sinks: [delta: anomalies]",
        "  alarms:                        # few and clear: raised once, cleared when it is over",
        "    from: judged",
        "    steps:",
        f"      - alarm: {{rule: abnormal, of: {'value' if named else columns.of[made.signals.fields[0].path]}, score: 75}}",
        *(["      - cases: {depth: 1}        # one case for each machine"] if named else []),
        "    sinks: [delta: alarms]",
        "  bell:                          # who is told; add mail, Teams ... to the list (see notify)",
        "    from: alarms",
        "    steps: [keep: ring]",
        "    sinks:",
        '      - notify: {to: console, text: "{severity}: {message}"}',
        "",
        "page:",
        "  streams: [judged, alarms]",
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
