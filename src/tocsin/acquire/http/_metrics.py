"""Metrics that Prometheus and OpenTelemetry push, as lines of Prometheus text.

Prometheus, "Remote-Write 1.0"; OpenTelemetry, "OTLP 1.5" and "Prometheus and OpenMetrics Compatibility".
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import pyarrow as pa

from tocsin.acquire.http._bodies import Content, Malformed
from tocsin.errors import MissingExtra

_STALE = 0x7FF0000000000002
"""The NaN by which Prometheus says that a series has ended; it is no reading."""


def remote_write(body: bytes, bytes_max: int) -> tuple[Content, int]:
    """Returns the samples of a remote-write request as lines, and how many ends of series it held."""
    request = _write_request()()
    _parse(lambda: request.ParseFromString(_without_snappy(body, bytes_max)), "a remote-write request")
    payloads, stale = [], 0
    for series in request.timeseries:
        labels = {label.name: label.value for label in series.labels}
        name = labels.pop("__name__", "")
        for sample in series.samples:
            if struct.unpack("<Q", struct.pack("<d", sample.value))[0] == _STALE:
                stale += 1
            else:
                payloads.append(_line(name, labels, sample.value, sample.timestamp))
    return Content(payloads), stale


def otlp(body: bytes, is_json: bool) -> tuple[Content, bytes]:
    """Returns the points of an OTLP request as lines, and the answer in the same encoding."""
    request, answer = _otlp_messages()
    if is_json:
        from google.protobuf import json_format

        _parse(lambda: json_format.Parse(body, request, ignore_unknown_fields=True), "an OTLP metrics request")
    else:
        _parse(lambda: request.ParseFromString(body), "an OTLP metrics request")
    payloads = [_line(*point) for point in _points(request)]
    return Content(payloads), b"{}" if is_json else answer.SerializeToString()


Point = tuple[str, Mapping[str, str], float, int]


def _points(request: Any) -> Iterator[Point]:
    """Name, labels, value and time in milliseconds of every point."""
    for of_resource in request.resource_metrics:
        resource = _labels(of_resource.resource.attributes)
        for scope in of_resource.scope_metrics:
            for metric in scope.metrics:
                yield from _of_metric(metric, resource)


def _of_metric(metric: Any, resource: Mapping[str, str]) -> Iterator[Point]:
    name, kind = _plain(metric.name), metric.WhichOneof("data")
    if kind is None:
        return
    for point in getattr(metric, kind).data_points:
        labels = {**resource, **_labels(point.attributes)}
        time_ms = point.time_unix_nano // 1_000_000
        if kind in ("gauge", "sum"):
            which = point.WhichOneof("value")
            if which is not None:
                yield name, labels, float(getattr(point, which)), time_ms
            continue
        yield f"{name}_count", labels, float(point.count), time_ms
        yield f"{name}_sum", labels, point.sum, time_ms
        if kind == "summary":
            for one in point.quantile_values:
                yield name, {**labels, "quantile": repr(one.quantile)}, one.value, time_ms
        elif kind == "histogram":
            total = 0
            for count, bound in zip(point.bucket_counts, [*point.explicit_bounds, math.inf], strict=False):
                total += count
                le = "+Inf" if bound == math.inf else repr(bound)
                yield f"{name}_bucket", {**labels, "le": le}, float(total), time_ms


def _parse(parse: Callable[[], object], what: str) -> None:
    """Call a parser of protobuf; `Malformed` for what it cannot read."""
    from google.protobuf import json_format, message

    try:
        parse()
    except (message.DecodeError, json_format.ParseError, ValueError, OSError) as error:
        raise Malformed(f"not {what}: {error}") from error


def _labels(attributes: Iterable[Any]) -> dict[str, str]:
    labels = {}
    for one in attributes:
        which = one.value.WhichOneof("value")
        if which in ("string_value", "bool_value", "int_value", "double_value"):
            value = getattr(one.value, which)
            labels[_plain(one.key)] = str(value).lower() if which == "bool_value" else str(value)
    return labels


def _plain(name: str) -> str:
    """A name as Prometheus writes it: ``system.cpu.time`` is ``system_cpu_time``."""
    plain = re.sub(r"[^a-zA-Z0-9_:]+", "_", name)
    return f"_{plain}" if plain[:1].isdigit() else plain


def _line(name: str, labels: Mapping[str, str], value: float, time_ms: int) -> bytes:
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{pairs}}} {value!r} {time_ms}".encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _without_snappy(body: bytes, bytes_max: int) -> bytes:
    """A body in Snappy's block format, unpacked; its size stands at its beginning as a varint."""
    size = 0
    for i, byte in enumerate(body[:5]):
        size |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            break
    if size > bytes_max:
        raise Malformed(f"more than {bytes_max} bytes once unpacked; send less at once", 413)
    return bytes(pa.decompress(body, decompressed_size=size, codec="snappy", asbytes=True)) if body else b""


def _protobuf() -> Any:
    """The package ``google.protobuf``, which is needed only where metrics come in it."""
    try:
        from google import protobuf
    except ImportError:
        raise MissingExtra("protobuf", "metrics", "remote write, or OTLP,") from None
    return protobuf


@cache
def _write_request() -> Any:
    """The message class of remote write 1.0: series of labels and samples."""
    _protobuf()
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="tocsin/remote_write.proto", package="tocsin", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    described = {
        "Label": [("name", 1, kinds.TYPE_STRING, one), ("value", 2, kinds.TYPE_STRING, one)],
        "Sample": [("value", 1, kinds.TYPE_DOUBLE, one), ("timestamp", 2, kinds.TYPE_INT64, one)],
        "TimeSeries": [("labels", 1, ".tocsin.Label", many), ("samples", 2, ".tocsin.Sample", many)],
        "WriteRequest": [("timeseries", 1, ".tocsin.TimeSeries", many)],
    }
    for name, fields in described.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, label in fields:
            of_type = {"type_name": kind, "type": kinds.TYPE_MESSAGE} if isinstance(kind, str) else {"type": kind}
            message.field.add(name=field_name, number=number, label=label, **of_type)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tocsin.WriteRequest"))


def _otlp_messages() -> tuple[Any, Any]:
    """A request and an answer of the OTLP metrics service."""
    try:
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service
    except ImportError:
        raise MissingExtra("opentelemetry-proto", "metrics", "OTLP") from None
    return service.ExportMetricsServiceRequest(), service.ExportMetricsServiceResponse()
