"""Why a record is set aside: the closed list of reasons that decoders give."""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "empty": "no bytes, or nothing but blanks",
    "too_large": "more bytes than payload_max, or a compressed payload that swells more than a hundredfold",
    "compression": "not what the compression makes: cut off, damaged, or followed by something else",
    "encoding": "not UTF-8, a lone surrogate, or a null character in a name",
    "topic": "the topic does not fit the template",
    "depth": "nested more than 32 deep",
    "shape": "not an object, or no array where rows should be",
    "json_syntax": "not JSON",
    "json_nonfinite": "NaN or Infinity where a value is required",
    "duplicate_key": "an object names a field twice",
    "number_range": "a number beyond 64 bits, or not zero and nearer to it than they can say",
    "type": "a value of another type than its column",
    "missing_field": "a required field, or a record's key, is absent, null or (as text) empty",
    "csv_shape": "not the declared number of fields, or quotes that do not fit",
    "csv_header": "the file's header lacks a required column, or names one twice",
    "influx_syntax": "not Influx line protocol",
    "prometheus_syntax": "not Prometheus text",
    "pattern_syntax": "a line that the pattern does not fit",
    "xml_syntax": "not XML",
    "xml_dtd": "a document type or entity declaration",
    "xml_shape": "no element of the name, or a field twice in one",
    "avro_header": "no zero byte and number of a schema in front",
    "avro_schema": "a schema that the registry does not know, or that is no Avro",
    "avro_value": "not what its Avro schema says: cut off, damaged, or followed by something else",
    "protobuf_header": "no zero byte, number of a schema and place of a message in front",
    "protobuf_schema": "a schema that the registry does not know, or that is no Protobuf, or lacks what it imports",
    "protobuf_value": "not a message of its schema: cut off, damaged, or another one",
    "sparkplug_payload": "not a Sparkplug B payload",
    "sparkplug_birth": "data of a node, a device or an alias whose birth has not been seen",
    "sparkplug_type": "a metric of a type that is not read: DataSet, Template, PropertySet",
    "sparkplug_value": "a metric whose value does not fit its type",
    "ts_syntax": "not a time stamp",
    "ts_range": "a time before 1970 or after 2199",
    "ts_zone": "a local time, and no zone is configured",
}


class Bad(Exception):
    """A record, or one row of it, that must be set aside; never leaves a decoder."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
