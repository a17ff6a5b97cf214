"""Which format payloads and files are in: tried from the strictest to the most lenient."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tocsin.decode._reasons import Bad
from tocsin.decode.influx import parts_of as influx_parts
from tocsin.decode.prometheus import parts_of as prometheus_parts
from tocsin.errors import ConfigError
from tocsin.infer import delimited
from tocsin.infer.nested import ROWS_MAX, json_form, xml_form
from tocsin.infer.numbers import as_number, number_style
from tocsin.infer.sample import Form, Piece, Sample, SampledField
from tocsin.values.text import utf16_of

DOCUMENT_BYTES = 200 * 1024
"""Larger documents need a setting to be taken whole."""
MOSTLY = 0.8
"""Share of the lines that must be of a format."""


def recognise(sample: Sample) -> Form | None:
    """Return the form of a sample, None if it is none that is known: empty, or binary."""
    pieces = [piece for piece in sample.pieces if piece.payload.strip()]
    encoding = _encoding(pieces)
    if not pieces or encoding is None or is_web_page(pieces[0].payload):
        return None
    if sample.is_files and b"\n" not in pieces[0].payload and pieces[0].payload.count(b"\r") > 2:
        raise ConfigError("its lines end with CR alone; write them with LF or CR LF")
    texts = [Piece(p.topic, p.payload.decode(encoding, "replace").lstrip("\ufeff").encode()) for p in pieces]
    form = _of_text(texts, sample.is_files)
    if form is not None and not sample.is_files:
        form = replace(form, files={})
    if form is not None and form.files.get("format") in ("json", "xml") and max(map(_size, pieces)) > DOCUMENT_BYTES:
        form = replace(form, settings={**form.settings, "payload_max": "64MiB"})
    if form is None or encoding == "utf-8":
        return form
    mark = pieces[0].payload[:3]
    is_marked = mark.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    settings = form.settings if is_marked else {**form.settings, "encoding": encoding}
    said = f"text in {encoding}, by its mark" if is_marked else f"text in {encoding}, since it is not UTF-8"
    return replace(form, settings=settings, reasons=[*form.reasons, said])


def is_web_page(payload: bytes) -> bool:
    """Return whether a payload is HTML."""
    return payload.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def _size(piece: Piece) -> int:
    return len(piece.payload)


def _encoding(pieces: Sequence[Piece]) -> str | None:
    """How text is written, None for what is no text."""
    head = b"".join(piece.payload for piece in pieces)[: 2**20]
    if (codec := utf16_of(head)) is not None:
        return codec
    if b"\0" in head:
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"
    except UnicodeDecodeError:
        control = sum(byte < 9 or 13 < byte < 32 for byte in head)
        return None if control > len(head) / 100 else "cp1252"


def _of_text(pieces: Sequence[Piece], is_files: bool) -> Form | None:
    if (form := xml_form(pieces)) is not None:
        return replace(form, files={"format": "xml"})
    lines = [Piece(p.topic, line) for p in pieces for line in p.payload.splitlines() if line.strip()][:ROWS_MAX]
    if is_files and (form := json_form(lines[:-1] or lines)) is not None:
        return replace(form, files={"format": "ndjson"})
    if (form := json_form(pieces)) is not None:
        return replace(form, files={"format": "json"})
    if not is_files and (form := json_form(lines)) is not None:
        return form
    by_line: tuple[tuple[str, str, Callable[[str], Mapping[str, Any]]], ...] = (
        ("influx", "Influx line protocol", influx_parts),
        ("prometheus", "Prometheus' text format", prometheus_parts),
    )
    for name, said, parts_of in by_line:
        if (form := _by_line(name, said, parts_of, lines)) is not None:
            return replace(form, files={"format": "text"})
    return _one_value(pieces) or _delimited(pieces, is_files)


def _by_line(name: str, said: str, parts_of: Callable[[str], Mapping[str, Any]], lines: Sequence[Piece]) -> Form | None:
    rows, wrong = [], 0
    for line in lines:
        text = line.payload.decode("utf-8", "replace").strip()
        if text.startswith("#"):
            continue
        try:
            rows.append((line.topic, dict(parts_of(text))))
        except Bad:
            wrong += 1
    if not rows or len(rows) < MOSTLY * (len(rows) + wrong):
        return None
    if name == "prometheus" and not any(b"{" in line.payload or b"_" in line.payload for line in lines):
        return None  # `word 20.5`: any line with a name and a number
    paths = list(dict.fromkeys(path for _, row in rows for path in row))
    fields = []
    for path in paths:
        values = [row.get(path) for _, row in rows]
        numbers = [float(v) if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values]
        fields.append(SampledField(path, values, numbers))
    settings = {}
    if name == "influx" and (precision := _precision(fields)) != "ns":
        settings["precision"] = precision
    return Form(name, settings, [topic for topic, _ in rows], fields, [f"{said}, {len(rows)} lines in the sample"])


def _precision(fields: Sequence[SampledField]) -> str:
    times = next((one.known for one in fields if one.path == "@time"), [])
    largest = max(times, default=1e18)
    return "s" if largest < 1e11 else "ms" if largest < 1e14 else "us" if largest < 1e17 else "ns"


def _one_value(pieces: Sequence[Piece]) -> Form | None:
    """Bare values, one a message; words beside numbers stand for what is no number."""
    texts = [piece.payload.decode("utf-8", "replace").strip() for piece in pieces]
    if any("\n" in text or len(text) > 40 for text in texts):
        return None
    style = number_style(texts)
    numbers = [as_number(text, *style) for text in texts]
    if sum(number is not None for number in numbers) * 2 < len(texts):
        return None
    values = SampledField("value", texts, numbers, share=0.5)
    settings: dict[str, Any] = {} if style[0] == "." else {"decimal": ",", "delimiter": ";"}
    if style[1]:
        settings["thousands"] = style[1]
    return Form("csv", settings, [p.topic for p in pieces], [values], ["one bare value a message"], {}, style[0])


def _delimited(pieces: Sequence[Piece], is_files: bool) -> Form | None:
    text = "\n".join(piece.payload.decode("utf-8", "replace") for piece in (pieces[:1] if is_files else pieces))
    table = delimited.table_of(text)
    if table is None or not table.rows:
        return None
    tables = [(pieces[0].topic, table)]
    if is_files:
        others = [(p.topic, delimited.table_of(p.payload.decode("utf-8", "replace"))) for p in pieces[1:]]
        tables += [(topic, one) for topic, one in others if one is not None and one.names == table.names]
        table = delimited.told_apart(table)
    rows = [(topic, row) for topic, one in tables for row in one.rows]
    joined = replace(table, rows=[row for _, row in rows])
    topics = [topic for topic, _ in rows]
    if not is_files:
        topics = [pieces[min(i, len(pieces) - 1)].topic for i in range(len(rows))]
    reasons = ["CSV: " + ", ".join(delimited.told(table))]
    settings = delimited.dialect(table, is_files=is_files)
    files = {"format": "csv", **({} if table.has_header else {"header": "none"})}
    return Form("csv", settings, topics, joined.fields(), reasons, files, table.decimal, table.units)
