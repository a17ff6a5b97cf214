"""Columns from what a record carries beside its payload: its key, when it was sent, its attributes (headers)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator

from tocsin.batch import KEY_TYPE, RAW_WITH_METADATA, TIME_TYPE
from tocsin.decode._reasons import Bad
from tocsin.decode._rejects import Rejects

_ATTRIBUTE = "attributes."
_ORIGIN = re.compile(r"key|sent|attributes\..+")


def _known(metadata: Mapping[str, str]) -> Mapping[str, str]:
    for column, origin in metadata.items():
        if not column.isidentifier():
            raise ValueError(f"'{column}' cannot be the name of a column; use letters, digits and _")
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{column}: there is no '{origin}'; say key, sent, or attributes. and a name")
    return metadata


Metadata = Annotated[Mapping[str, str], AfterValidator(_known)]
"""Name of a column, and what it holds: ``key``, ``sent`` or ``attributes.NAME``."""


def metadata_fields(metadata: Metadata) -> list[pa.Field]:
    """Returns the columns: a key is a category, ``sent`` a timestamp; both are required; an attribute may be null."""
    return [_field(column, origin) for column, origin in metadata.items()]


def lacks_metadata(metadata: Metadata, records: pa.Schema) -> str | None:
    """Returns the first column that these records cannot fill."""
    return None if records.equals(RAW_WITH_METADATA) else next(iter(metadata), None)


def metadata_columns(
    metadata: Metadata, records: pa.RecordBatch, rejects: Rejects
) -> tuple[list[pa.Array], npt.NDArray[np.bool_]]:
    """Returns the columns of all records, and which of these are set aside: no key, no time, or text not in UTF-8."""
    wrong = np.zeros(len(records), bool)
    columns = []
    for name, origin in metadata.items():
        column = records.column("sent") if origin == "sent" else _texts(_bytes(records, origin), name, rejects, wrong)
        if not _field(name, origin).nullable:
            for i in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False) & ~wrong).tolist():
                rejects.add(i, Bad("missing_field", f"{name} is the record's {origin}, and this record has none"))
                wrong[i] = True
        columns.append(column)
    return columns, wrong


def _field(column: str, origin: str) -> pa.Field:
    return pa.field(column, TIME_TYPE if origin == "sent" else KEY_TYPE, nullable=origin not in ("key", "sent"))


def _bytes(records: pa.RecordBatch, origin: str) -> pa.Array:
    if origin == "key":
        return records.column("key")
    return pc.map_lookup(records.column("attributes"), pa.scalar(origin.removeprefix(_ATTRIBUTE)), "last")


def _texts(values: pa.Array, name: str, rejects: Rejects, wrong: npt.NDArray[np.bool_]) -> pa.Array:
    """The values as text; what is not UTF-8 becomes null, and its record is set aside."""
    coded = values.dictionary_encode()
    words: list[str | None] = []
    for word in coded.dictionary.to_pylist():
        try:
            words.append(word.decode())
        except UnicodeDecodeError:
            words.append(None)
    strange = [code for code, word in enumerate(words) if word is None or "\0" in word]
    if strange:
        at = np.isin(coded.indices.fill_null(-1).to_numpy(), strange) & ~wrong
        for i in np.flatnonzero(at).tolist():
            rejects.add(i, Bad("encoding", f"{name}: {values[i].as_py()[:50]!r} is not text in UTF-8"))
        wrong |= at
        return pa.array([word or "" for word in words], pa.string()).take(coded.indices).dictionary_encode()
    return pa.DictionaryArray.from_arrays(coded.indices, pa.array(words, pa.string()))
