"""Messages of Protocol Buffers by their descriptors, and their fields as values that a column takes."""

from __future__ import annotations

import base64
import binascii
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tocsin.decode._builder import INT_END
from tocsin.decode._reasons import Bad
from tocsin.decode._registry import HEADER_BYTES, Registry
from tocsin.decode._values import HUGE, NAN
from tocsin.errors import MissingExtra

FILES_MAX = 1_000
"""So many files a schema may import, with those that they import."""
_GOOGLES = "google/protobuf/"
_INDEXES_MAX = 32
_COMPILE_S = 60.0
_PLACE = re.compile(r"\S+:\d+:\d+: ")
_WRAPPERS = ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
_WRAPPED = {f"google.protobuf.{name}Value" for name in _WRAPPERS}
_STRUCTS = {f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue")}
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


def require_library(*, compiles: bool) -> None:
    """Raises `MissingExtra` where the library is not installed, or the compiler that a registry's schemas need."""
    try:
        import google.protobuf  # noqa: F401
    except ImportError:
        raise MissingExtra("protobuf", "protobuf", "Protobuf") from None
    if compiles and find_spec("grpc_tools") is None:
        raise MissingExtra("grpcio-tools", "protobuf", "Protobuf with a registry")


# ---------------------------------------------------------------------------------------------------------- descriptors


def read_set(data: bytes) -> tuple[Any, list[str]]:
    """Returns a pool with the files of a descriptor set, as ``protoc --descriptor_set_out`` writes it; and their names.

    `Bad` if these bytes are none, or lack a file that another one imports.
    """
    from google.protobuf import descriptor_pb2, message

    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(data).file
    except message.DecodeError:
        files = []
    if not files:
        raise Bad("protobuf_schema", "these bytes are no set of descriptors")
    names = [file.name for file in files]
    return _pool(dict(zip(names, files, strict=True)), names), names


def messages_of(pool: Any, names: Sequence[str]) -> list[str]:
    """Returns the full names of the messages in some files, those within others too; Google's own left out."""
    own = [name for name in names if not name.startswith(_GOOGLES)]
    pending = [one for name in own for one in pool.FindFileByName(name).message_types_by_name.values()]
    told = []
    while pending:
        one = pending.pop(0)
        told.append(one.full_name)
        pending = [*one.nested_types, *pending]
    return told


def fetched(registry: Registry, number: int) -> tuple[Any, str]:
    """Returns a pool with the schema of a number and all that it imports, and the schema's name in it.

    `Bad` if there is none, or it cannot be read; `Unavailable` if the registry is away.
    """
    held = registry.schema_of(number, "PROTOBUF")
    name = f"{number}.proto"
    schemas, pending = {name: held.text}, [*held.references]
    while pending:
        reference = pending.pop()
        if reference.name in schemas:
            continue
        if len(schemas) >= FILES_MAX:
            raise Bad("protobuf_schema", f"schema {number} imports more than {FILES_MAX} files")
        imported = registry.referred(reference, "PROTOBUF")
        schemas[reference.name] = imported.text
        pending += imported.references
    described = {name: file for name, text in schemas.items() if (file := _described(name, text)) is not None}
    if len(described) == len(schemas):
        return _pool(described, [name]), name
    texts = {name: text for name, text in schemas.items() if name not in described}
    return read_set(_compiled(texts, described.values(), name))[0], name


def _described(name: str, text: str) -> Any:
    """The descriptor that a client registered in Base64, as Python's do; None for the text of a ``.proto`` file."""
    from google.protobuf import descriptor_pb2, message

    try:
        file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, message.DecodeError):
        return None
    file.name = name
    return file


def _compiled(texts: Mapping[str, str], described: Iterable[Any], wanted: str) -> bytes:
    """The descriptors of a file and of those that it imports, by Google's own compiler: some 0.3 s."""
    from google.protobuf import descriptor_pb2

    with TemporaryDirectory() as folder, TemporaryDirectory() as out:
        for name, text in texts.items():
            path = Path(folder, name)
            if not path.is_relative_to(folder) or ".." in path.parts:
                raise Bad("protobuf_schema", f"{wanted} imports {name!r}, which is not the name of a file")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        given, made = Path(out, "given"), Path(out, "made")
        given.write_bytes(descriptor_pb2.FileDescriptorSet(file=described).SerializeToString())
        sets = [f"--descriptor_set_in={given}"] if given.stat().st_size else []
        protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *sets]
        command = [*protoc, "--include_imports", f"--descriptor_set_out={made}", wanted]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_COMPILE_S, check=False)
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").splitlines()
            errors = [line for line in said if _PLACE.match(line)] or said  # warnings beside them
            raise Bad("protobuf_schema", " ".join(errors)[:300])
        return made.read_bytes()


def _pool(files: Mapping[str, Any], wanted: Sequence[str]) -> Any:
    """A pool of files, each after those that it imports; Google's own are taken from the library."""
    from google.protobuf import descriptor_pool

    pool, added = descriptor_pool.DescriptorPool(), set[str]()

    def add(name: str, within: tuple[str, ...]) -> None:
        if name in added:
            return
        if name in within:
            raise Bad("protobuf_schema", f"{name} imports itself")
        file = files.get(name) or _googles(name)
        if file is None:
            raise Bad("protobuf_schema", f"{within[-1]} imports {name}, which is not there")
        for imported in file.dependency:
            add(imported, (*within, name))
        try:
            pool.Add(file)
        except TypeError as error:  # what the library says of a file that does not fit together
            raise Bad("protobuf_schema", f"{name}: {' '.join(str(error).split())[:200]}") from None
        added.add(name)

    for name in wanted:
        add(name, ())
    return pool


@cache
def _googles(name: str) -> Any:
    """One of the files that come with the library; None for any other."""
    from google.protobuf import (  # noqa: F401  # importing one makes it known
        any_pb2,
        descriptor_pb2,
        descriptor_pool,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        struct_pb2,
        timestamp_pb2,
        wrappers_pb2,
    )

    try:
        known = descriptor_pool.Default().FindFileByName(name)
    except KeyError:
        return None
    file = descriptor_pb2.FileDescriptorProto()
    known.CopyToProto(file)
    return file if name.startswith(_GOOGLES) else None


# ------------------------------------------------------------------------------------------------------------- messages


def indexes_of(payload: bytes) -> tuple[tuple[int, ...], int]:
    """Returns the place of a record's message in its schema, and how many bytes stand in front of the message.

    Behind the number of the schema stand the count of the places and each of them, as zigzag varints; a zero alone is
    the first message. `Bad` if that is not so.

    Confluent, "Schema Registry: wire format".
    """
    count, at = _zigzag(payload, HEADER_BYTES)
    if not 0 <= count <= _INDEXES_MAX:
        raise Bad("protobuf_header", f"a message within {count} others")
    if count == 0:
        return (0,), at
    places = []
    for _ in range(count):
        place, at = _zigzag(payload, at)
        places.append(place)
    return tuple(places), at


def _zigzag(payload: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 35, 7):
        if at >= len(payload):
            break
        byte = payload[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number >> 1 ^ -(number & 1), at
    raise Bad("protobuf_header", "the place of the message in its schema should stand behind the schema's number")


def class_at(pool: Any, file: str, places: Sequence[int]) -> Any:
    """Returns the class of the message at a place in a file; `Bad` if there is none."""
    within = [*pool.FindFileByName(file).message_types_by_name.values()]
    one = None
    for place in places:
        if not 0 <= place < len(within):
            raise Bad("protobuf_header", f"the schema has no message at {'.'.join(map(str, places))}")
        one = within[place]
        within = [*one.nested_types]
    return _class(one)


def class_named(pool: Any, name: str) -> Any:
    """Returns the class of a message by its full name; KeyError if there is none."""
    return _class(pool.FindMessageTypeByName(name))


def _class(descriptor: Any) -> Any:
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(descriptor)


def read_message(cls: Any, data: bytes) -> Any:
    """Returns a message; `Bad` if these bytes are none."""
    from google.protobuf import message, unknown_fields

    try:
        read = cls.FromString(data)
    except message.DecodeError as error:
        raise Bad("protobuf_value", f"no {cls.DESCRIPTOR.full_name}: {str(error)[:200]}") from None
    if not read.IsInitialized():
        raise Bad("protobuf_value", f"lacks {', '.join(read.FindInitializationErrors())[:200]}")
    if not read.ListFields() and len(unknown_fields.UnknownFieldSet(read)):
        raise Bad("protobuf_value", f"no {cls.DESCRIPTOR.full_name}: it has none of its fields")
    return read


def plain(message: Any) -> Any:
    """Returns a message as an object of its fields by name, nested ones too; those that are absent are left out.

    Fields that cannot be absent have their default. Enums are text, bytes are text in Base64, repeated fields arrays,
    maps objects, a Timestamp is text in ISO 8601, a Duration seconds; the wrappers and Struct are what they hold.
    """
    name = message.DESCRIPTOR.full_name
    if name in _SPECIAL:
        return _SPECIAL[name](message)
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if _is_repeated(field):
            fields[field.name] = _many(field, getattr(message, field.name))
        elif not field.has_presence or message.HasField(field.name) or field.has_default_value:
            fields[field.name] = _one(field, getattr(message, field.name))
    return fields


def _is_repeated(field: Any) -> bool:
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == field.LABEL_REPEATED)  # protobuf 5, which Flink pins


def _many(field: Any, values: Any) -> Any:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        of = entry.fields_by_name["value"]
        return {str(key): _one(of, values[key]) for key in values}
    return [_one(field, value) for value in values]


def _one(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return str(value) if named is None else named.name
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else NAN
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, int) and value >= INT_END:
        return HUGE
    return value


def _timestamp(message: Any) -> str:
    try:
        at = _BEGIN + timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)
    except OverflowError:
        raise Bad("protobuf_value", f"a Timestamp of {message.seconds} s is none") from None
    return at.isoformat()


def _struct(value: Any) -> Any:
    """A Struct, a Value or a ListValue as what JSON makes of it."""
    kind = value.DESCRIPTOR.name
    if kind == "Struct":
        return {name: _struct(one) for name, one in value.fields.items()}
    if kind == "ListValue":
        return [_struct(one) for one in value.values]
    held = value.WhichOneof("kind")
    if held in (None, "null_value"):
        return None
    one = getattr(value, held)
    return _struct(one) if held in ("struct_value", "list_value") else _scalar(one)


_SPECIAL: Mapping[str, Callable[[Any], Any]] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": lambda message: message.seconds + message.nanos / 1e9,
    **dict.fromkeys(_WRAPPED, lambda message: _scalar(message.value)),
    **dict.fromkeys(_STRUCTS, _struct),
}

__all__ = [
    "class_at", "class_named", "fetched", "indexes_of", "messages_of", "plain", "read_message", "read_set",
    "require_library",
]  # fmt: skip
