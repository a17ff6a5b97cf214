"""The usual case in one block: what is judged, when it is an alarm, who is told; it stands for six streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tocsin.settings import Many, Settings

JUDGED, ALARM, TOLD = (
    ("streams", "judged", "steps", 0),
    ("streams", "alarms", "steps", 0),
    ("streams", "bell", "sinks", 0),
)
WRITTEN: Mapping[tuple[str | int, ...], tuple[str | int, ...]] = {
    JUDGED: ("watch", "detector"),
    ALARM: ("watch", "alarm"),
    TOLD: ("watch", "tell"),
}
"""By place in what it stands for: where that is written in the block."""


class Watch(Settings):
    """What is judged, when it is an alarm, who is told. ``tocsin check FILE --expand`` shows what it stands for.

    Every reading is kept in the table ``readings``, verdicts from a score of 75 on in ``anomalies``, alarms in
    ``alarms``; the page shows what is judged and the alarms.

    Examples
    --------
    >>> list(streams_of(Watch(of="celsius").model_dump(), ["plant"]))
    ['readings', 'judged', 'anomalies', 'alarms', 'bell']
    """

    of: Many[str] = ()
    """The columns that are judged; none where rows name their signal (columns ``signal`` and ``value``): then each
    signal of each machine is a series of its own, and a machine has one case, however many of its signals are off."""
    detector: str | Mapping[str, Any] = "health"
    """The detector, by its name or with its settings."""
    alarm: Mapping[str, Any] = {}
    """Settings of `alarm`, if not a rule ``abnormal`` that rings from a score of 75 on."""
    tell: Many[str] | Mapping[str, Any] = ("console",)
    """Who is told: targets of `notify`, or its settings."""


def opened(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a pipeline file with the streams that its block ``watch`` stands for in its place.

    Raises `ValueError` where a stream of the file has the name of one of them.
    """
    if not isinstance(watch := tree.get("watch"), Mapping):
        return tree
    sources = tree.get("sources")
    streams = streams_of(watch, list(sources) if isinstance(sources, Mapping) else ())
    own = tree.get("streams") or {}
    if taken := streams.keys() & own.keys():
        raise ValueError(f"watch: stands for a stream '{min(taken)}', too; call your own otherwise")
    page = {"streams": ["judged", "alarms", *own], **(tree.get("page") or {})}
    return {**tree, "streams": {**streams, **own}, "page": page}


def streams_of(watch: Mapping[str, Any], sources: Any) -> dict[str, Any]:
    """Returns the streams that a block stands for, as they are written in a file."""
    of = watch.get("of") or ()
    columns = [of] if isinstance(of, str) else list(of)
    detector = _with(
        watch.get("detector") or "health", {"of": columns if len(columns) > 1 else columns[0]} if columns else {}
    )
    alarm = {"rule": "abnormal", "of": columns[0] if columns else "value", **(watch.get("alarm") or {})}
    if not alarm.keys() & {"score", "high", "low", "high_high", "low_low", "rate_of_change"}:
        alarm["score"] = 75
    tell = watch.get("tell") or "console"
    told = dict(tell) if isinstance(tell, Mapping) else {"to": tell if isinstance(tell, str) else list(tell)}
    by_signal = not columns
    return {
        "readings": {**({"from": list(sources)} if len(sources) > 1 else {}), "sinks": [{"delta": "readings"}]},
        **({"series": {"from": "readings", "steps": [{"rekey": "{key}/{signal}"}]}} if by_signal else {}),
        "judged": {"from": "series" if by_signal else "readings", "steps": [detector]},
        "anomalies": {"from": "judged", "steps": [{"keep": "score >= 75"}], "sinks": [{"delta": "anomalies"}]},
        "alarms": {
            "from": "judged",
            "steps": [{"alarm": alarm}, *([{"cases": {"depth": 1}}] if by_signal else [])],
            "sinks": [{"delta": "alarms"}],
        },
        "bell": {"from": "alarms", "steps": [{"keep": "ring"}], "sinks": [{"notify": told}]},
    }


def _with(part: Any, more: Mapping[str, Any]) -> Any:
    """Returns a part with further settings, where it is written as a name or with settings by name."""
    if isinstance(part, str):
        return {part: dict(more)} if more else part
    if isinstance(part, Mapping) and len(part) == 1:
        ((name, settings),) = part.items()
        if settings is None or isinstance(settings, Mapping):
            return {name: {**more, **(settings or {})}}
    return part


__all__ = ["Watch", "opened"]
